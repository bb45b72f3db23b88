"""The bound on the error by the head's anisotropy, and what the experiment says of runs that break it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from hypothesis import given
from hypothesis import strategies as st

import nfa_flow as nf
from nfa_flow.studies.nfa.linear_layers import FLOW, LINEAR_LAYERS, bound, identity_error, kappa

EPS = np.finfo(np.float64).eps


def power(S, exponent):
    values, vectors = np.linalg.eigh(S)
    return (vectors * np.maximum(values, 0) ** exponent) @ vectors.T


@given(st.integers(1, 5), st.integers(2, 6), st.floats(0, 6), st.integers(0, 2**32 - 1))
def test_the_relative_error_stays_below_the_bound(k, size, log_spread, seed):
    random = np.random.default_rng(seed)
    M = random.normal(size=(size, size))
    Q, _ = np.linalg.qr(random.normal(size=(size, size)))
    beta = np.exp(log_spread * random.uniform(size=size))
    N, A = power(M.T @ M, 1 / k), power(M.T @ (Q * beta) @ Q.T @ M, 1 / k)
    error = np.linalg.norm(N - np.sum(N * A) / np.sum(A * A) * A) / np.linalg.norm(N)
    # Eigenvalues are off by rounding, and small ones by its k-th root.
    assert error <= bound((beta.max() / beta.min()) ** (1 / k)) + 100 * (EPS * np.linalg.cond(M.T @ M)) ** (1 / k)


def test_the_bound_vanishes_for_a_head_without_directions():
    assert bound(1.0) == 0


@pytest.fixture(scope="module")
def net_and_data():
    data = nf.data.multi_index(jax.random.key(0), 30, 3, rank=2)
    net = nf.nets.MLP([3, 3, 3, 4, 1], key=jax.random.key(1), activation=["identity", "identity", "tanh"])
    balanced = nf.nets.Balanced()(jax.random.key(2), (3, 3, 3, 4), jnp.float64)
    return net.with_weights([*balanced, net.weights[-1]]), data


def test_balanced_linear_layers_keep_the_power_of_their_product_along_the_flow(net_and_data):
    net, data = net_and_data
    assert identity_error(net, data) < 1e-13
    run = nf.gradient_flow(net, data, 2.0, rtol=1e-9, observe={"error": identity_error}, save_at=[2.0], progress=False)
    assert run.observed["error"][-1] < 1e-7
    assert jnp.linalg.norm(run.net.weights[0] - net.weights[0]) > 0.01


def test_the_condition_number_of_the_head_bounds_its_agop(net_and_data):
    net, data = net_and_data
    M = net.weights[2] @ net.weights[1] @ net.weights[0]
    ratios = np.linalg.eigvals(np.linalg.solve(M.T @ M, nf.measure.agop(net, data))).real
    assert kappa(net, data) == pytest.approx(ratios.max() / ratios.min(), rel=1e-9)


def made(*, identity=1e-12, over=-0.01):
    """Runs of two heads whose error is the bound and something."""
    dims, shape = ("head", "k", "training", "seed"), (2, 2, 1, 8)
    kappas = np.full(shape, 16.0)
    errors = bound(kappas ** (1 / np.array([1, 2])[None, :, None, None])) + over
    ends = {
        "identity_error": np.full(shape, identity),
        "kappa": kappas,
        "relative_error": errors,
        "best.relative_error": errors / 2,
        "exponent.exponent": np.full(shape, 0.5),
        "untrained.relative_error": np.full(shape, 0.7),
        "untrained.exponent.exponent": np.full(shape, 0.2),
    }
    variables = {f"{name}_at_end": (dims, values) for name, values in ends.items()}
    variables |= {name: ((*dims, "time"), values[..., None]) for name, values in ends.items()}
    coords = {"head": ["tanh", "relu"], "k": [1, 2], "training": [FLOW], "seed": np.arange(8)}
    return xarray.Dataset(variables | {"status": (dims, np.full(shape, "completed"))}, coords)


def test_each_claim_fails_with_its_law():
    verdicts = lambda dataset: [claim.holds for claim in LINEAR_LAYERS.claims(dataset)]
    assert verdicts(made()) == [True, True, None, None, None]
    assert verdicts(made(identity=1e-6)) == [False, True, None, None, None]
    assert verdicts(made(over=1e-3)) == [True, False, None, None, None]
