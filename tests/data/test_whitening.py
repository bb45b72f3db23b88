import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfa_flow.data import Dataset, multi_index, standardize, whiten

RANDOM = np.random.default_rng(0)
N, D = 12, 4
Y = RANDOM.normal(size=(N, 2))
SCALES = st.lists(st.floats(-5, 5), min_size=D, max_size=D).map(lambda exponents: 10.0 ** np.array(exponents))


def _weights():
    weight = RANDOM.uniform(size=N)
    weight[0] = 0.0
    return weight / weight.sum()


def _same_span(A, B):
    return np.linalg.norm(A @ A.T - B @ B.T) < 1e-10


@settings(max_examples=10, deadline=None)
@given(SCALES, st.booleans())
def test_whitened_inputs_have_the_identity_as_second_moment_however_badly_scaled(scales, weighted):
    data = Dataset(RANDOM.normal(size=(N, D)) * scales, Y, _weights() if weighted else None)
    white = whiten(data)
    np.testing.assert_allclose(white.S_xx, np.eye(D), atol=1e-13)
    np.testing.assert_array_equal(white.y, data.y)


def test_whitening_is_the_symmetric_inverse_root_also_for_samples_of_weight_zero():
    data = Dataset(RANDOM.normal(size=(N, D)), Y, _weights())
    eigenvalues, V = np.linalg.eigh(data.S_xx)
    np.testing.assert_allclose(whiten(data).x, data.x @ (V / np.sqrt(eigenvalues)) @ V.T, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rank", [0, 2])
def test_whitening_of_inputs_that_do_not_span_gives_the_projector_of_that_rank(rank):
    data = Dataset(RANDOM.normal(size=(N, rank)) @ RANDOM.normal(size=(rank, D)), Y)
    S = whiten(data).S_xx
    np.testing.assert_allclose(S @ S, S, atol=1e-13)
    np.testing.assert_allclose(jnp.trace(S), rank, atol=1e-13)


def test_whitening_of_fewer_samples_than_inputs_gives_a_projector():
    S = whiten(Dataset(RANDOM.normal(size=(N, D)).T, np.ones(D))).S_xx
    np.testing.assert_allclose(S @ S, S, atol=1e-13)
    np.testing.assert_allclose(jnp.trace(S), D, rtol=1e-13)


def test_white_inputs_stay_as_they_are():
    white = whiten(Dataset(RANDOM.normal(size=(N, D)), Y))
    np.testing.assert_allclose(whiten(white).x, white.x, atol=1e-13)


@settings(max_examples=10, deadline=None)
@given(SCALES, st.booleans())
def test_standardized_inputs_have_mean_zero_and_variance_one(scales, weighted):
    data = Dataset((RANDOM.normal(size=(N, D)) + 3) * scales, Y, _weights() if weighted else None)
    standard = standardize(data)
    np.testing.assert_allclose(standard.sample_weight @ standard.x, np.zeros(D), atol=1e-13)
    np.testing.assert_allclose(jnp.diag(standard.S_xx), np.ones(D), rtol=1e-13)
    np.testing.assert_array_equal(standard.y, data.y)


# 0.1 and 1/3 are not the floating-point mean of themselves.
@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, 1e8])
def test_a_constant_column_becomes_zero(constant):
    x = np.hstack([np.full((N, 1), constant), RANDOM.normal(size=(N, 1))])
    standard = standardize(Dataset(x, Y))
    np.testing.assert_array_equal(standard.x[:, 0], np.zeros(N))
    np.testing.assert_allclose(standard.S_xx[1, 1], 1, rtol=1e-13)


@pytest.mark.parametrize("transform", [whiten, standardize])
def test_the_index_space_is_carried_along(transform):
    # Targets linear in the old index coordinates are linear (with an intercept) in the new ones, without residual.
    data = multi_index(N, D, 2, key=jax.random.key(1), covariance=np.diag([4.0, 1.0, 0.2, 9.0]))
    new = transform(data)
    assert not _same_span(new.index, data.index)
    np.testing.assert_allclose(new.index.T @ new.index, np.eye(2), atol=1e-13)
    features = np.hstack([new.x @ new.index, np.ones((N, 1))])
    _, residual, _, _ = np.linalg.lstsq(features, np.asarray(data.x @ data.index))
    np.testing.assert_allclose(residual, 0, atol=1e-20)


@pytest.mark.parametrize("transform", [whiten, standardize])
def test_transforms_can_be_traced_over_lanes(transform):
    x = RANDOM.normal(size=(2, N, D))
    lanes = jax.jit(jax.vmap(lambda x: transform(Dataset(x, Y)).x))(x)
    np.testing.assert_allclose(lanes[1], transform(Dataset(x[1], Y)).x, atol=1e-12)


@pytest.mark.parametrize("prepare", [standardize, whiten])
def test_directions_that_the_inputs_do_not_have_leave_the_index(prepare):
    rng = np.random.default_rng(0)
    x = np.hstack([rng.normal(size=(6, 2)), np.full((6, 2), 1.0 if prepare is standardize else 0.0)])
    index = prepare(Dataset(x, x[:, :1], index=np.eye(4)[:, [0, 3]])).index
    assert index.shape == (4, 1)
    if prepare is standardize:
        np.testing.assert_allclose(np.abs(index[:, 0]), [1, 0, 0, 0], atol=1e-14)
    np.testing.assert_allclose(index[2:], 0, atol=1e-14)
    assert prepare(Dataset(x, x[:, :1], index=np.eye(4)[:, 2:])).index is None


@pytest.mark.parametrize(("dtype", "scales"), [(jnp.float32, (2e-38, 1e-19, 1e19, 1e38)), (float, (3e-308, 1e300))])
def test_standardizing_does_not_depend_on_the_scale(dtype, scales):
    # Numbers that are normal, whose differences from the middle of the column are not.
    z = np.array([[1.0], [2.0], [2.05], [1.9], [3.0]])
    expected = (z - z.mean()) / z.std()
    for scale in scales:
        x = standardize(Dataset((z * scale).astype(dtype), z.astype(dtype))).x
        # z · scale is rounded once, and so is its offset.
        np.testing.assert_allclose(x, expected, atol=20 * jnp.finfo(dtype).eps)


def test_a_column_far_from_zero_is_centered_to_rounding():
    z = 1e10 + RANDOM.normal(size=(N, 1))
    x = standardize(Dataset(z, Y)).x
    assert abs(x.mean()) < 10 * np.finfo(float).eps and abs(x.std() - 1) < 10 * np.finfo(float).eps
    almost = np.full((N, 1), 14.62)
    almost[3] = np.nextafter(14.62, 20)
    # One of N that differs, by whatever, has (1 − 1/N)/√((1/N)(1 − 1/N)).
    np.testing.assert_allclose(standardize(Dataset(almost, Y)).x.max(), (N - 1) ** 0.5, rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_whitened_and_standardized(dtype):
    data = Dataset(RANDOM.normal(size=(N, D)), Y, index=np.eye(D)[:, :2])
    for function in (whiten, standardize):
        half = function(data.astype(dtype))
        assert half.x.dtype == half.index.dtype == dtype
        exact = function(data.astype(dtype).astype(float)).x
        np.testing.assert_allclose(half.x.astype(float), exact, atol=4 * float(jnp.finfo(dtype).eps))
