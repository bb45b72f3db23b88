"""AGOP kernels: time beside the usual ways, growth, memory and accuracy.

    python benchmarks/agop.py            # everything, about ten minutes on two cores
    python benchmarks/agop.py --accuracy # only the table of roots of AGOP, by its eigenvalues and by our factor

All ways of one case are timed in turn in one process, so that a busy machine slows them alike; the rate of a plain
large matrix product, timed in the same turns, says what the machine can do. Results go to one JSON file and a figure.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from agop_figure import draw
from agop_peers import TORCH, WAYS, Case, Measure
from machine import describe_machine

import nfa_flow as nf

HERE = Path(__file__).parent
CASES = [
    Case(32, 64, 3, 1, 2000),
    Case(784, 256, 3, 10, 1000),
    Case(3072, 256, 3, 10, 500),
    Case(100, 1024, 5, 1, 1000),
    Case(3072, 32, 3, 10, 200, convolutional=True),
]
BASE = Case(256, 128, 3, 10, 512)
GROWTH = {"n": (128, 512, 2048, 8192), "d": (64, 256, 1024, 4096), "h": (32, 128, 512, 1024)}
GROWING = ("ours, K", "ours, factor", "JAX vmap(jacrev)", TORCH[-1])
DEPTHS = range(2, 9)
BIG = Case(3072, 256, 3, 10, 50_000)


def main() -> None:
    """Measure, print, and keep."""
    arguments = _arguments()
    device = jax.devices()[0]
    name = "cpu" if device.platform == "cpu" else device.device_kind.lower().replace(" ", "-")
    stem = arguments.out / f"agop-{name}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = stem.with_suffix(".json")
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results["machine"] = describe_machine(str(device), ("jax", "nfa_flow", "torch", "numpy"))
    parts = {"accuracy": accuracy, "cases": cases, "growth": growth, "memory": memory}
    for part, measure in parts.items():
        if part in arguments.only:
            results[part] = measure(arguments.repeats)
            path.write_text(json.dumps(results, indent=1))
    print(f"\n{path}")
    if "cases" in results and "growth" in results:
        print(draw(results, stem.with_suffix(".png")))


def cases(repeats: int) -> list[dict]:
    """Every way on every case, and the rate of a plain matrix product."""
    rows = []
    for case in CASES:
        row = {"case": case.name, "flops": case.flops} | timed(case, list(WAYS), repeats)
        rows.append(row)
        print(f"\n{case.name}: a plain matrix product runs at {row['rate'] / 1e9:.0f} Gflop/s")
        for way, seconds in row["seconds"].items():
            rate = f", {case.flops / seconds / row['rate']:.0%} of that" if way == "ours, K" and case.flops else ""
            times = ", ".join(f"{row['seconds'].get(peer, np.nan) / seconds:.1f}" for peer in TORCH)
            print(f"  {way:27} {1e3 * seconds:9.2f} ms   PyTorch takes {times} × as long{rate}")
    return rows


def growth(repeats: int) -> dict[str, list[dict]]:
    """Time against n, d and h."""
    results: dict[str, list[dict]] = {}
    for axis, values in GROWTH.items():
        results[axis] = []
        for value in values:
            case = Case(**{name: getattr(BASE, name) for name in ("d", "h", "L", "c", "n")} | {axis: value})
            row = {"value": value} | timed(case, list(GROWING), max(3, repeats // 3))
            results[axis].append(row)
            print(axis, value, {way: f"{1e3 * s:.2f} ms" for way, s in row["seconds"].items()}, flush=True)
    return results


def timed(case: Case, ways: list[str], repeats: int) -> dict[str, Any]:
    """Seconds of each way (minimum over turns), and the flops a second of a plain product."""
    measures = {way: WAYS[way](case) for way in ways}
    measures = {way: measure for way, measure in measures.items() if measure is not None}
    _check_that_they_agree(measures, case.n)
    a = jax.random.normal(jax.random.key(0), (2048, 2048), "float32")
    product = jax.jit(lambda a: a @ a)
    everything: dict[str, Callable] = measures | {"product": lambda: jax.block_until_ready(product(a))}
    everything["product"]()
    seconds: dict[str, list[float]] = {way: [] for way in everything}
    for _ in range(repeats):
        for way, measure in everything.items():
            began = time.perf_counter()
            measure()
            seconds[way].append(time.perf_counter() - began)
    best = {way: min(times) for way, times in seconds.items()}
    median = {way: float(np.median(times)) for way, times in seconds.items()}
    rate = 2 * 2048**3 / best.pop("product")
    return {"seconds": best, "median_seconds": median, "rate": rate}


def _check_that_they_agree(measures: dict[str, Measure], n: int) -> None:
    """Every way runs once, to compile, and those that give the whole matrix give the same.

    A relu unit within rounding of zero may be on in one and off in another, for a sample or two of the n.
    """
    matrices = {way: np.asarray(measure(), float) for way, measure in measures.items()}
    if "ours, d × d" in matrices:
        ours = matrices["ours, d × d"]
        for way in matrices.keys() - {"ours, K", "ours, factor"}:
            error = np.linalg.norm(matrices[way] - ours) / np.linalg.norm(ours)
            assert error < 3 / n, f"{way} differs from ours by {error:.1e}"


def accuracy(repeats: int) -> list[dict]:
    """Relative error of NFM against AGOP^{1/L} on exactly balanced networks 10-…-10-3, where it is zero."""
    rows = []
    print("relative error of NFM against AGOP^(1/L)      by eigenvalues of AGOP            ours")
    for dtype in ("float32", "float64"):
        for L in DEPTHS:
            with jax.enable_x64(dtype == "float64"):
                net = nf.nets.MLP([*[10] * L, 3], key=jax.random.key(L), init=nf.nets.Balanced(), dtype=dtype)
                x = jnp.zeros((1, 10), dtype)
                N = np.asarray(nf.measure.nfm(net), float)
                values, V = jnp.linalg.eigh(nf.measure.agop(net, x))
                root = np.asarray((V * jnp.maximum(values, 0) ** (1 / L)) @ V.T, float)
                assembled = float(np.linalg.norm(root - N) / np.linalg.norm(N))
                ours = float(nf.measure.alignment(1 / L, metric="fixed_scale_error")(net, x))
            rows.append({"dtype": dtype, "L": L, "assembled": assembled, "ours": ours})
            print(f"{dtype}, L = {L}                                       {assembled:.1e}                  {ours:.1e}")
    return rows


def memory(repeats: int) -> dict[str, float]:
    """How much a fresh process grows, over the data, network and program, while it measures the big case."""
    script = "import agop; agop.report_growth()"
    done = subprocess.run([sys.executable, "-c", script], cwd=HERE, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{BIG.name}: data {result['data'] / 2**20:.0f} MiB, peak over it {result['added'] / 2**20:.0f} MiB")
    return result


def report_growth() -> None:
    """Print by how many bytes this process grows at its peak while the big case is measured."""
    # Not `ru_maxrss`, which begins with what the parent had.
    status = lambda name: 1024 * int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0])
    net, x = BIG.net, jnp.ones((BIG.n, BIG.d), "float32")
    x.block_until_ready()
    before = status("VmRSS")
    jax.block_until_ready(nf.measure.agop(net, x))
    peak = status("VmHWM")
    print(json.dumps({"data": x.nbytes, "added": peak - before}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["accuracy", "cases", "growth", "memory"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="parts to measure anew")
    parser.add_argument("--accuracy", dest="only", action="store_const", const=["accuracy"], help="only that table")
    parser.add_argument("--repeats", type=int, default=15, help="turns; the fastest counts")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
