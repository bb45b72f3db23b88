"""One gradient step and ridge regression on its features: seconds and memory against the number of samples.

    python benchmarks/one_step.py                      # everything
    python benchmarks/one_step.py --samples 1000 2000

d = N = n/4 in float32, a process for each n, each part timed at its second call: the step on n samples, the features
of n fresh ones, the ridge fit by a Cholesky factor of size N, as `ridge_fit` does it, and of size n, as the other
dimension would have it. Memory is the most that the process ever held, data and compilation included; the larger factor
has a process of its own. Results go to one JSON file and a figure.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from machine import describe_machine

import nfa_flow as nf
from nfa_flow.plot.style import legend_below, new_figure

HERE = Path(__file__).parent
SAMPLES = (1000, 2000, 4000, 8000, 16000)
LARGEST_FACTOR = 8000
PENALTY, ALPHA = 0.01, 0.3
OURS, OTHER = "ridge fit, factor of size N", "ridge fit, factor of size n"


def main() -> None:
    """Measure, print, and keep."""
    arguments = _arguments()
    if arguments.cell:
        print(json.dumps(cell(*arguments.cell)))
        return
    device = jax.devices()[0]
    name = "cpu" if device.platform == "cpu" else device.device_kind.lower().replace(" ", "-")
    stem = arguments.out / f"one-step-{name}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": describe_machine(str(device), ("jax", "nfa_flow")), "rows": []}
    for n in arguments.samples:
        row = in_a_process(n, OURS)
        if n <= LARGEST_FACTOR:
            other = in_a_process(n, OTHER)
            row["seconds"][OTHER], row["gib_of_the_other"] = other["seconds"][OTHER], other["gib"]
        results["rows"].append(row)
        stem.with_suffix(".json").write_text(json.dumps(results, indent=1))
        seconds = ", ".join(f"{part} {value:.2f} s" for part, value in row["seconds"].items())
        print(f"n = {n}: {seconds}; {row['gib']:.2f} GiB", flush=True)
    print(draw(results["rows"], stem.with_suffix(".png")))


def in_a_process(n: int, way: str) -> dict[str, Any]:
    """One cell, in a process of its own."""
    command = [sys.executable, __file__, "--cell", str(n), way]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def cell(n: str | int, way: str) -> dict[str, Any]:
    """Seconds of each part, the training loss, and the most memory held."""
    n = int(n)
    data_key, net_key = jax.random.split(jax.random.key(0))
    teacher = nf.theory.hermite_series([0, 1, 0.5**0.5])
    data = nf.data.single_index(2 * n, n // 4, key=data_key, noise=0.5, link=teacher)
    batch, x, y = nf.Dataset(data.x[:n], data.y[:n]), data.x[n:], data.y[n:, 0]
    del data
    net = nf.one_step.two_layer_net(n // 4, n // 4, "relu", key=net_key)
    seconds: dict[str, float] = {}
    after = timed(seconds, "step", lambda: nf.one_step.one_step(net, batch, n**ALPHA))
    F = timed(seconds, "features", lambda: nf.one_step.features(after, x))
    fit = (lambda: nf.one_step.ridge_fit(F, y, PENALTY).train) if way == OURS else (lambda: larger_factor(F, y))
    train = timed(seconds, way, fit)
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"samples": n, "seconds": seconds, "gib": gib, "train": float(train), "dtype": str(F.dtype)}


def timed(seconds: dict[str, float], part: str, function: Callable[[], Any]) -> Any:
    """The result of a second call, and its time kept."""
    jax.block_until_ready(function())
    began = time.perf_counter()
    result = jax.block_until_ready(function())
    seconds[part] = time.perf_counter() - began
    return result


@jax.jit
def larger_factor(F: jax.Array, y: jax.Array) -> jax.Array:
    """The training loss λ yᵀ(FFᵀ/n + λ)⁻¹y/n, in the dimension of the samples."""
    n = len(y)
    factor = jax.scipy.linalg.cho_factor(F @ F.T / n + PENALTY * jnp.eye(n, dtype=F.dtype))
    return PENALTY * y @ jax.scipy.linalg.cho_solve(factor, y) / n


def draw(rows: list[dict[str, Any]], path: Path) -> Path:
    """Seconds of the parts and memory against n."""
    sheet, (left, right) = new_figure(2)
    n = [row["samples"] for row in rows]
    for part in {part: None for row in rows for part in row["seconds"]}:
        left.plot(n, [row["seconds"].get(part, float("nan")) for row in rows], marker="o", markersize=3, label=part)
    right.plot(n, [row["gib"] for row in rows], marker="o", markersize=3, color="black")
    right.axhline(8, color="black", linestyle="--", linewidth=1)
    left.set(xscale="log", yscale="log", xlabel="samples $n$, $d = N = n/4$", ylabel="seconds")
    right.set(xscale="log", yscale="log", xlabel="samples $n$", ylabel="most memory held (GiB)")
    right.set_yticks([0.5, 1, 2, 4, 8], ["½", "1", "2", "4", "8"])
    right.set_yticks([], minor=True)
    handles, labels = left.get_legend_handles_labels()
    legend_below(sheet, dict(zip(labels, handles, strict=True)))
    sheet.savefig(path)
    return path


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
