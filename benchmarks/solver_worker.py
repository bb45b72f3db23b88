"""One cell of the benchmark in a process of its own: `python solver_worker.py TASK.json RESULT.npz`.

It prints one line when everything is compiled, so that the parent can start its clock, and writes what it measured.
"""

import json
import os
import sys
import time
from typing import Any

if hasattr(os, "sched_setaffinity"):  # before JAX counts the cores
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from solver_peers import METHODS
from solver_problems import flat, make

import nfa_flow as nf
from nfa_flow.problem.objective import make_objective

_WARM_UP_UNTIL = 1e-3
_SHORT_SECONDS = 2.0
_POWER_ITERATIONS = 100
_GRADIENTS = 100  # of which the mean time is taken


def solved(task: dict) -> dict:
    """Compile with a short flow, then time the whole one: the median of three where it is short, else once.

    On a CPU, the seconds are those of this process on its one core: what else the machine does costs it little.
    """
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    net, data = make(task["problem"])
    solve = METHODS[task["method"]].prepare(net, data, task["rtol"], task["sharpness"])
    began = time.perf_counter()
    solve(_WARM_UP_UNTIL)
    compile_seconds = time.perf_counter() - began
    print("compiled", flush=True)
    seconds, outcome = [], None
    while not seconds or (len(seconds) < 3 and max(seconds) < _SHORT_SECONDS):
        began = clock()
        outcome = solve(task["t1"])
        seconds.append(clock() - began)
    assert outcome is not None
    return outcome._asdict() | {"seconds": float(np.median(seconds)), "compile_seconds": compile_seconds}


def cost_of(task: dict) -> dict:
    """The same, and the seconds of one gradient in the same process."""
    return solved(task) | {"gradient_seconds": _gradient_seconds(*make(task["problem"]))}


def _gradient_seconds(net, data) -> float:
    parameters, objective = make_objective(net, data, "mse", 0.0)
    descend = lambda _, parameters: jax.tree.map(lambda y, g: y - 1e-9 * g, parameters, objective.gradient(parameters))
    run = jax.jit(lambda parameters: jax.lax.fori_loop(0, _GRADIENTS, descend, parameters))
    jax.block_until_ready(run(parameters))
    began = time.process_time()
    jax.block_until_ready(run(parameters))
    return (time.process_time() - began) / _GRADIENTS


def sharpness_along(task: dict) -> dict:
    """The eigenvalue of the Hessian of largest magnitude along the flow, by power iteration."""
    net, data = make(task["problem"])
    print("compiled", flush=True)
    run = nf.gradient_flow(
        net, data, task["t1"], rtol=1e-3, atol=1e-5, save_at=task["times"], save_nets=True, progress=False
    )
    largest = [
        float(_sharpness(jax.tree.map(lambda array, i=i: array[i], run.nets), data)) for i in range(len(run.times))
    ]
    return {"sharpness": largest}


@eqx.filter_jit
def _sharpness(net, data):
    parameters, objective = make_objective(net, data, "mse", 0.0)
    y, unravel = ravel_pytree(parameters)
    product = lambda v: jax.jvp(jax.grad(lambda y: objective.loss(unravel(y))), (y,), (v,))[1]
    v = jax.random.normal(jax.random.key(0), y.shape)
    unit = lambda v: v / jnp.linalg.norm(v)
    v = jax.lax.fori_loop(0, _POWER_ITERATIONS, lambda _, v: unit(product(v)), unit(v))
    return v @ product(v)


def memory_of(task: dict) -> dict:
    """What XLA accounts for the compiled solve, beyond its arguments, in vectors as long as the parameters."""
    net, data = make(task["problem"])
    solver = getattr(nf.flow, task["method"])()

    def solve(net):
        options = {"solver": solver, "rtol": task["rtol"], "atol": task["rtol"] / 100, "save_at": [task["t1"]]}
        return nf.gradient_flow(net, data, task["t1"], progress=False, **options).net

    memory: Any = eqx.filter_jit(solve).lower(net).compile().compiled.memory_analysis()
    print("compiled", flush=True)
    vector = flat(net)
    return {"vectors": (memory.temp_size_in_bytes + memory.output_size_in_bytes) / vector.nbytes, "P": vector.size}


def device(task: dict) -> dict:
    """The device that JAX chooses here."""
    chosen = jax.devices()[0]
    print("compiled", flush=True)
    return {"platform": chosen.platform, "kind": chosen.device_kind}


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    with open(sys.argv[1]) as file:
        task = json.load(file)
    tasks = {"solve": solved, "cost": cost_of, "sharpness": sharpness_along, "memory": memory_of, "device": device}
    measured = tasks[task["what"]](task)
    parameters = measured.pop("parameters", np.zeros(0))
    np.savez(sys.argv[2], parameters=parameters, measured=json.dumps(measured))
