"""What the first call of a flow or of a descent costs before it runs, by stage: medians over fresh processes, in turn.

`python benchmarks/compile_time.py [--repeats N]`, on CPU. Tracing and lowering are JAX's own durations. The compilation
by XLA is split by taking stages out: without LLVM's optimization, and also without the fusion emitters, what is left
are XLA's passes over the program and plain code.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

PLAIN, UNFUSED = "--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false"
FLAGS = {"all": "", "plain": PLAIN, "plain, unfused": f"{PLAIN} {UNFUSED}", "unfused": UNFUSED}
RUNS = {
    "NDF": "nf.gradient_flow(net, data, 100.0, observe=observe, progress=False)",
    "TSRKC3": "nf.gradient_flow(net, data, 100.0, observe=observe, solver=nf.flow.TSRKC3(), progress=False)",
    "Tsit5": "nf.gradient_flow(net, data, 1.0, observe=observe, solver=diffrax.Tsit5(), progress=False)",
    "Adam": "nf.gradient_descent(net, data, optax.adam(1e-3), 10, time_per_step=1.0, observe=observe, progress=False)",
}
CODE = """
import collections, json, time
import diffrax, jax, optax
import nfa_flow as nf
jax.config.update("jax_enable_x64", True)
key = jax.random.key(0)
data = nf.data.multi_index(samples=200, inputs=20, rank=2, key=key)
net = nf.nets.MLP([20, 64, 64, 1], key=key, activation="tanh")
observe = {{"loss": nf.measure.loss, "alignment": nf.measure.alignment(power=1 / 3)}}
seconds = collections.Counter()
def listen(event, duration, **_):
    seconds[event.split("/")[-1]] += duration
    seconds["programs"] += event.endswith("backend_compile_duration")
jax.monitoring.register_event_duration_secs_listener(listen)
began = time.perf_counter()
{run}
print(json.dumps(seconds | {{"call": time.perf_counter() - began}}))
"""


def measured(run: str, flags: str) -> dict[str, float]:
    """Seconds by event, in a fresh process without a cache of compiled programs."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-c", CODE.format(run=run)]
    done = subprocess.run(command, env=environment | {"XLA_FLAGS": flags}, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print one row per run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    columns = ("call", "programs", "trace", "lower", "compile", "XLA", "emitters", "LLVM", "unfused")
    print(f"{'first call, seconds':<20}" + "".join(f"{name:>10}" for name in columns))
    for name, run in RUNS.items():
        print(f"{name:<20}" + "".join(f"{value:>10.2f}" for value in stages(run, repeats)))


def stages(run: str, repeats: int) -> list[float]:
    """The medians over the repeats, in the order of the table's columns."""
    results = [{setting: measured(run, flags) for setting, flags in FLAGS.items()} for _ in range(repeats)]

    def median(setting: str, event: str) -> float:
        return statistics.median(each[setting][event] for each in results)

    compiled = {setting: median(setting, "backend_compile_duration") for setting in FLAGS}
    events = ("call", "programs", "jaxpr_trace_duration", "jaxpr_to_mlir_module_duration")
    return [
        *(median("all", event) for event in events),
        compiled["all"],
        compiled["plain, unfused"],
        compiled["plain"] - compiled["plain, unfused"],
        compiled["all"] - compiled["plain"],
        compiled["unfused"],
    ]


if __name__ == "__main__":
    main()
