"""Flows in half precision and under the switches of JAX."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf


def flow(dtype="float64", activation="tanh", **options):
    data = nf.data.linear_teacher(20, 3, 1, key=jax.random.key(0)).astype(dtype)
    net = nf.nets.MLP([3, 4, 1], key=jax.random.key(1), activation=activation)
    net = jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, net)
    observe = {"loss": nf.measure.loss, "sharpness": nf.measure.Sharpness()}
    return nf.gradient_flow(net, data, 1.0, observe=observe, save_at=[0.5, 1.0], progress=False, **options)


@pytest.mark.parametrize("solver", [None, nf.flow.NDF(), nf.flow.TSRKC3()], ids=["default", "NDF", "TSRKC3"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_follows_the_flow_to_its_own_resolution(dtype, solver):
    run, exact = flow(dtype, solver=solver), flow()
    assert run.net.weights[0].dtype == dtype
    # Weights and losses are rounded to eps, and the default tolerance is 8 eps.
    rtol = 10 * 8 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(run.observed["loss"].astype(float), exact.observed["loss"], rtol=rtol)
    np.testing.assert_allclose(run.observed["sharpness"], exact.observed["sharpness"], rtol=rtol)


def test_half_precision_of_a_linear_network_is_followed_too():
    run, exact = flow("float16", activation="identity"), flow(activation="identity")
    np.testing.assert_allclose(run.observed["loss"], exact.observed["loss"], rtol=10 * 8 * 2.0**-10)


@pytest.mark.parametrize(
    "switch",
    [jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"), jax.debug_nans(True)],
    ids=["strict", "rank", "nans"],
)
@pytest.mark.parametrize("solver", [nf.flow.NDF(), nf.flow.TSRKC3(), diffrax.Tsit5()], ids=lambda s: type(s).__name__)
def test_switches_change_nothing(switch, solver):
    usual = flow("float32", solver=solver, certify=True)
    with switch:
        run = flow("float32", solver=solver, certify=True)
    for name, values in usual.observed.items():
        np.testing.assert_array_equal(run.observed[name], values)


def test_a_nan_of_ones_own_is_found_inside_a_run():
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        flow(loss=lambda p, y: jnp.sum(jnp.sqrt(p - p)))
