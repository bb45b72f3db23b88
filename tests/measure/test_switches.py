"""Measurements under the switches of JAX, and of networks in half precision."""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow import measure
from nfa_flow.measure.alignment import METRICS

KEYS = jax.random.split(jax.random.key(0), 4)
LABELS = jax.nn.one_hot(jax.random.randint(KEYS[0], (6,), 0, 3), 3)
DATA = nf.Dataset(jax.random.normal(KEYS[1], (6, 4)), LABELS)
NET = nf.nets.MLP([4, 3, 3], key=KEYS[2], activation="tanh", bias=True)

MEASURES = {
    "agop": measure.agop,
    "centered factor": lambda net, data: measure.agop_factor(net, data, centered=True),
    "batches": lambda net, data: measure.agop(net, iter([data, data])),
    "estimate": lambda net, data: measure.agop_estimate(net, data, probes=2, key=KEYS[3]),
    **{metric: measure.alignment(0.5, metric=metric) for metric in METRICS},
    "enfa": measure.enfa(loss="cross_entropy"),
    "balance": measure.balance,
    "best": measure.best_cosine,
    "exponent": measure.fit_exponent,
    "crh": measure.crh,
    "fact": measure.FactError(0.1),
    "head": measure.head_anisotropy,
    "hessian": measure.HessianEigenvalues(2),
    "loss": measure.loss,
    "ntk": measure.ntk_eigenvalues,
    "ntk by Lanczos": eqx.Partial(measure.ntk_eigenvalues, count=2),
    "null": lambda net, data: measure.null_alignment(net, data, measure.alignment(1.0), key=KEYS[3], draws=2),
    "sharpness": measure.Sharpness(),
    "ranks": measure.effective_rank,
    "norms": measure.spectral_norm,
    "spectrum": measure.spectrum,
    "angles": measure.subspace_overlap(1),
    "derivative": lambda net, data: eqx.filter_grad(lambda net: measure.alignment(0.5)(net, data))(net),
    "coordinates": lambda net, data: nf.width.Coordinates(net)(net, data),
}


@contextlib.contextmanager
def strict():
    """All the switches at once that turn what JAX lets pass into an error."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"), jax.debug_nans(True):
        yield


SWITCHES = {"strict": strict, "without jit": jax.disable_jit}
# Under `disable_jit` a loop runs operation by operation, so only what has no loop is run there, one of each kind:
# sums of Jacobians, in batches too, a spectrum, a search, and rows of one layer.
QUICK = ("agop", "batches", "balance", "best", "crh", "loss", "spectrum")
CASES = [("strict", name) for name in MEASURES] + [("without jit", name) for name in QUICK]


@pytest.mark.parametrize(("switch", "name"), CASES)
def test_a_measurement_is_the_same_under_every_switch(switch, name):
    usual = MEASURES[name](NET, DATA)
    with SWITCHES[switch]():
        other = MEASURES[name](NET, DATA)
    for one, two in zip(jax.tree.leaves(usual), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12)


IN_HALF = ("agop", "cosine", "exponent", "crh", "hessian", "loss", "ntk", "sharpness", "norms")


# Both types are brought to single precision by the same function, before anything else is done.
@pytest.mark.parametrize(("name", "dtype"), [*((name, jnp.bfloat16) for name in IN_HALF), ("agop", jnp.float16)])
def test_a_network_in_half_precision_is_measured_as_the_same_network_in_single(name, dtype):
    half = jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_array(leaf) else leaf, (NET, DATA))
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if eqx.is_array(leaf) else leaf, half)
    for one, two in zip(jax.tree.leaves(MEASURES[name](*half)), jax.tree.leaves(MEASURES[name](*single)), strict=True):
        assert one.dtype == two.dtype
        # Programs of other inputs, which XLA may order otherwise: some rounding errors of 1e-7 of the largest number.
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6 * float(jnp.max(jnp.abs(two))))


def test_a_linear_network_in_half_precision_is_aligned():
    net = nf.nets.MLP([4, 3, 3], key=KEYS[2], dtype=jnp.bfloat16)
    score = measure.alignment(0.5)(net, DATA)
    assert score.dtype == jnp.float32 and 0 < score <= 1


def test_samples_are_brought_to_the_precision_of_the_network():
    net = eqx.nn.Sequential(
        [
            eqx.nn.Lambda(lambda x: x[None]),
            eqx.nn.Conv1d(1, 2, 3, key=KEYS[3], dtype=jnp.float32),
            eqx.nn.Lambda(jnp.ravel),
        ]
    )
    x = DATA.x
    assert x.dtype == jnp.float64
    for value in (measure.agop(net, x), measure.agop(net, x, layer=1), measure.ntk(net, x)):
        assert value.dtype == jnp.float32
