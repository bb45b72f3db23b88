"""Every switch of JAX, and half precision: flow, descent, a stored run, sweep and alignment work under each."""

from contextlib import nullcontext

import diffrax
import jax
import numpy as np
import optax
import pytest
from oracles import Given

import nfa_flow as nf

SWITCHES = {
    "jax_debug_nans": lambda: jax.debug_nans(True),
    "strict promotion of dtypes": lambda: jax.numpy_dtype_promotion("strict"),
    "no promotion of ranks": lambda: jax.numpy_rank_promotion("raise"),
    "no jit": jax.disable_jit,
    "no float64": lambda: jax.enable_x64(False),
    "float16": nullcontext,
    "bfloat16": nullcontext,
}
DTYPES = {"no float64": "float32", "float16": "float16", "bfloat16": "bfloat16"}


def problem(switch, key):
    rng = np.random.default_rng(0)
    data = nf.Dataset(rng.normal(size=(6, 2)), rng.normal(size=6))
    init = Given((rng.normal(size=(3, 2)), rng.normal(size=(1, 3))))
    net = nf.nets.MLP([2, 3, 1], key=key, activation="tanh", init=init, dtype=DTYPES.get(switch, "float64"))
    return net, data


def flow(switch, tmp_path):
    # Without compilation the solver of choice takes minutes, and each step of any other one a second.
    options = {"solver": diffrax.Tsit5(), "rtol": 1e-2, "dt0": 0.1} if switch == "no jit" else {}
    call = lambda: nf.gradient_flow(*problem(switch, jax.random.key(0)), 0.3, save_at=[0.3], progress=False, **options)
    run = call()
    if switch == "no jit":
        with jax.disable_jit(False):
            np.testing.assert_allclose(run.observed["loss"], call().observed["loss"], rtol=1e-10)
    assert run.status == "completed" and np.isfinite(run.observed["loss"].astype("float32")).all()


def descend(switch, key=None, weight_decay=0.1, **options):
    net, data = problem(switch, jax.random.key(0) if key is None else key)
    options = {"weight_decay": weight_decay, "save_at": [0, 3], "progress": False} | options
    return nf.gradient_descent(net, data, optax.sgd(0.1), 3, **options)


def descent(switch, tmp_path):
    run = descend(switch, save_nets=True)
    np.testing.assert_allclose(run.times, [0.0, 0.3], rtol=1e-6)
    assert run.observed["loss"][1] < run.observed["loss"][0]
    read = nf.Trajectory.load(run.save(tmp_path / "run.zarr"))
    np.testing.assert_array_equal(read.observed["loss"], run.observed["loss"])
    np.testing.assert_array_equal(read.net.weights[0], run.net.weights[0])
    assert read.net.weights[0].dtype == run.net.weights[0].dtype


def adam(switch, tmp_path):
    net, data = problem(switch, jax.random.key(0))
    # Of half precision ε = 1e-8 is zero.
    optimizer = optax.adam(0.01, eps=1e-3)
    run = nf.gradient_descent(net, data, optimizer, 3, time_per_step=0.01, progress=False)
    assert run.status == "completed"


def sweep(switch, tmp_path):
    one_run = lambda key, decay: descend(switch, key, decay)
    dataset = nf.sweep(one_run, nf.Grid(decay=[0.1, 0.2]), progress=False)
    assert set(dataset["status"].values) == {"completed"}


def alignment(switch, tmp_path):
    net, data = problem(switch, jax.random.key(0))
    W_1, W_2 = (np.asarray(W, float) for W in net.weights)
    J = [W_2 @ np.diag(1 - np.tanh(W_1 @ x) ** 2) @ W_1 for x in np.asarray(data.x, float)]
    s, V = np.linalg.eigh(sum(each.T @ each for each in J) / len(J))
    root, nfm = V @ np.diag(np.sqrt(np.maximum(s, 0))) @ V.T, W_1.T @ W_1
    cosine = np.sum(root * nfm) / np.linalg.norm(root) / np.linalg.norm(nfm)
    # Sums of some ten terms each.
    eps = float(jax.numpy.finfo(DTYPES.get(switch, "float64")).eps)
    assert abs(float(nf.measure.alignment(power=0.5)(net, data)) - cosine) < 30 * eps


@pytest.mark.parametrize("action", [flow, descent, adam, sweep, alignment])
@pytest.mark.parametrize("switch", SWITCHES)
def test_everything_works_under_every_switch(switch, action, tmp_path):
    with SWITCHES[switch]():
        action(switch, tmp_path)
