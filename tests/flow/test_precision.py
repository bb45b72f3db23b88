"""Flows in float32: as accurate as the type allows, however long or late they are."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import parameters, relative

import nfa_flow as nf

QUIET = {"progress": False}


def test_float32_stays_float32(data):
    net = nf.nets.MLP([5, 6, 1], key=jax.random.key(0), activation="tanh", dtype="float32")
    reference = nf.nets.MLP([5, 6, 1], key=jax.random.key(0), activation="tanh").with_weights(
        [np.asarray(W, float) for W in net.weights]
    )
    low = nf.gradient_flow(net, data, 10.0, rtol=1e-5, atol=1e-7, **QUIET)
    high = nf.gradient_flow(reference, data, 10.0, rtol=1e-9, **QUIET)
    assert low.net.weights[0].dtype == low.observed["loss"].dtype == jnp.float32
    assert relative(parameters(low.net) - parameters(high.net), parameters(high.net)) < 1e-4


def test_long_float32_times_lose_no_steps():
    """Without float64 a million steps of 0.01 add up to 1e4, and a flow that starts late goes on."""
    code = """
import diffrax, jax, nfa_flow as nf
data = nf.data.linear_teacher(10, 2, 1, key=jax.random.key(0))
net = nf.nets.MLP([2, 1], key=jax.random.key(1))
run = nf.gradient_flow(net, data, 1e4, solver=diffrax.Euler(), dt0=0.01, max_steps=2_000_000, progress=False)
assert abs(run.stats["steps"] - 1_000_000) <= 1, run
assert run.times.dtype == "float32"
assert nf.gradient_flow(net, data, 1e6 + 100, t0=1e6, progress=False).status == "completed"
assert nf.gradient_flow(net, data, 0.1, save_at=jax.numpy.linspace(0, 0.1, 5), progress=False).status == "completed"
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"JAX_ENABLE_X64": "0"})


def test_float32_products_do_not_lose_digits_on_a_gpu(data):
    """A GPU multiplies float32 matrices with three digits unless a product asks for more; every product does."""
    net = nf.nets.MLP([5, 6, 1], key=jax.random.key(0), activation="tanh", dtype="float32")

    def end(weights):
        run = nf.gradient_flow(
            net.with_weights(weights), data, 1.0, observe={"agop": nf.measure.agop}, save_at=[1.0], **QUIET
        )
        return run.net.weights, run.observed["agop"]

    precisions = set(re.findall(r"precision=(.*)", str(jax.make_jaxpr(end)(list(net.weights)))))
    assert precisions == {"(Precision.HIGHEST, Precision.HIGHEST)"}


def test_float32_keeps_steps_below_the_resolution_of_its_time(data):
    """From t0 = 1e8 a step of 1e-2 would vanish in a float32 time."""
    net = nf.nets.MLP([5, 6, 1], key=jax.random.key(0), activation="tanh", dtype="float32")
    options = {"rtol": 1e-5, "atol": 1e-7}
    late = nf.gradient_flow(net, data, 1e8 + 2, t0=1e8, **options, **QUIET)
    early = nf.gradient_flow(net, data, 2.0, **options, **QUIET)
    np.testing.assert_allclose(parameters(late.net), parameters(early.net), rtol=1e-4, atol=1e-6)


def test_a_tolerance_finer_than_the_dtype_is_warned_about(data):
    net = nf.nets.MLP([5, 6, 1], key=jax.random.key(0), activation="tanh", dtype="float32")
    with pytest.warns(UserWarning, match="`rtol` = 1e-08 is finer than float32"):
        nf.gradient_flow(net, data, 0.1, rtol=1e-8, save_at=[0.1], **QUIET)
