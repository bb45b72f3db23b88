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


def root_of_gram(F, k, rank):
    """(FᵀF)^{1/k} of a matrix of this rank, from singular values, so that what is zero stays zero."""
    _, s, Vt = np.linalg.svd(F)
    return (Vt[:rank].T * s[:rank] ** (2 / k)) @ Vt[:rank]


def relative_error(N, A):
    return np.linalg.norm(N - np.sum(N * A) / np.sum(A * A) * A) / np.linalg.norm(N)


def orthonormal(random, size, columns):
    return np.linalg.qr(random.normal(size=(size, columns)))[0]


@given(
    k=st.integers(1, 5),
    rank=st.integers(1, 3),
    wider=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    log_spread=st.floats(0, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_relative_error_stays_below_the_bound(k, rank, wider, log_spread, seed):
    random = np.random.default_rng(seed)
    m, d = rank + wider[0], rank + wider[1]
    U, V, Q = orthonormal(random, m, rank), orthonormal(random, d, rank), orthonormal(random, m, m)
    s, beta = np.exp(3 * random.uniform(size=rank)), np.exp(log_spread * random.uniform(size=m))
    M, root_of_B = (U * s) @ V.T, (Q * np.sqrt(beta)) @ Q.T
    beta_on_range = np.linalg.eigvalsh(U.T @ root_of_B @ root_of_B @ U)
    error = relative_error(root_of_gram(M, k, rank), root_of_gram(root_of_B @ M, k, rank))
    # Singular values between e⁰ and e⁶ are off by a few roundings of the largest.
    assert error <= bound((beta_on_range[-1] / beta_on_range[0]) ** (1 / k)) + 100 * np.exp(6) * EPS


@given(st.integers(1, 5), st.floats(0.1, 10))
def test_the_bound_is_attained(k, log_kappa):
    root = np.exp(log_kappa / k)
    N, B = np.diag([1, np.sqrt(root)]), np.diag([root**k, 1])  # the head sees most where M is small
    M = N ** (k / 2)  # balanced: NFM = (MᵀM)^{1/k}
    A = np.diag(np.diag(M.T @ B @ M) ** (1 / k))
    assert relative_error(N, A) == pytest.approx(bound(root), rel=1e-12)


def test_the_bound_vanishes_for_a_head_without_directions():
    assert bound(1.0) == 0


@pytest.fixture(scope="module")
def net_and_data():
    data = nf.data.multi_index(30, 3, rank=2, key=jax.random.key(0))
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


def made(*, identity=1e-12, over=-0.01, status="completed"):
    """Runs of two heads with κ = 16 whose error is the bound and something, and untrained ones with other numbers."""
    dims, shape = ("head", "k", "training", "seed"), (2, 2, 1, 8)
    ks = np.array([1, 2])[None, :, None, None] * np.ones(shape)
    errors = bound(16.0 ** (1 / ks)) + over
    ends = {
        "identity_error": np.full(shape, identity),
        "kappa": np.full(shape, 16.0),
        "anisotropy": np.full(shape, 0.8),
        "relative_error": errors,
        "best.relative_error": errors / 2,
        "exponent.exponent": 0.9 / ks,
        "untrained.relative_error": np.full(shape, 0.7),
        "untrained.exponent.exponent": np.full(shape, 0.2),
        "untrained.kappa": np.full(shape, 30.0),
        "untrained.anisotropy": np.full(shape, 1.7),
    }
    variables = {f"{name}_at_end": (dims, values) for name, values in ends.items()}
    variables |= {name: ((*dims, "time"), values[..., None]) for name, values in ends.items()}
    coords = {"head": ["tanh", "relu"], "k": [1, 2], "training": [FLOW], "seed": np.arange(8)}
    return xarray.Dataset(variables | {"status": (dims, np.full(shape, status))}, coords)


def test_each_claim_fails_with_its_law():
    verdicts = lambda dataset: [claim.holds for claim in LINEAR_LAYERS.judge(dataset)]
    reports = [None] * 5
    assert verdicts(made()) == [True, True, *reports]
    assert verdicts(made(identity=1e-6)) == [False, True, *reports]
    assert verdicts(made(over=1e-3)) == [True, False, *reports]
    assert verdicts(made(status="failed")) == [None, None, *reports]


def test_the_reports_tell_whether_more_layers_help_and_that_kinks_are_not_certified():
    trend, report, kinked, _, untrained = LINEAR_LAYERS.judge(made())[2:]
    assert trend.statement == "tanh head, exact flow: error at 1/k, from k = 1 to 2"
    assert trend.measured == (
        "0.87 (0.87–0.87) → 0.59 (0.59–0.59), smaller in 8 of 8 seeds, "
        "at t = 0 0.87 (0.87–0.87) → 0.59 (0.59–0.59); "
        "α̂k 0.9 (0.9–0.9) → 0.9 (0.9–0.9), at t = 0 0.9 (0.9–0.9) → 0.9 (0.9–0.9); κ^{1/k} 16 (16–16) → 4 (4–4)"
    )
    assert report.measured.startswith("error at 1/k 0.87, 0.59; error at the best α 0.44, 0.29; α̂ 0.9, 0.45; κ 16, 16")
    assert "not certified" in kinked.statement
    assert untrained.measured == "error at 1/k 0.7, 0.7; α̂ 0.2, 0.2; κ 30, 30; anisotropy of B 1.7, 1.7"
