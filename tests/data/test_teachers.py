import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.data import linear_teacher, multi_index, orthogonal_support, single_index, vanishing_alignment

KEY = jax.random.key(0)
N, D = 40, 6


def _teachers(**options):
    return [
        linear_teacher(N, D, 2, key=KEY, **options),
        multi_index(N, D, 2, key=KEY, **options),
        single_index(N, D, key=KEY, **options),
    ]


def _residual(features, y):
    """Largest entry of y that is no linear combination of the features."""
    coefficients = np.linalg.lstsq(features, np.asarray(y))[0]
    return np.abs(features @ coefficients - y).max()


def test_a_linear_teacher_without_noise_is_a_linear_map():
    data = linear_teacher(N, D, 3, key=KEY)
    assert (data.samples, data.inputs, data.outputs) == (N, D, 3)
    assert _residual(data.x, data.y) < 1e-13


def test_a_linear_teacher_has_entries_of_variance_one_over_inputs():
    for rank in (None, 10):
        data = linear_teacher(120, 100, 100, rank=rank, key=KEY)
        A = np.linalg.lstsq(data.x, np.asarray(data.y))[0]
        # The Gaussian factors make ≥ 10·100 independent squares: relative error √(2/1000) = .045.
        np.testing.assert_allclose(np.mean(A**2), 1 / 100, rtol=4 * 0.045)


@pytest.mark.parametrize(("rank", "expected"), [(None, 3), (2, 2), (1, 1)])
def test_the_index_of_a_linear_teacher_spans_its_row_space(rank, expected):
    data = linear_teacher(N, D, 3, rank=rank, key=KEY)
    assert data.index.shape == (D, expected)
    assert np.linalg.matrix_rank(data.y) == expected
    assert _residual(data.x @ data.index, data.y) < 1e-13


def test_every_index_is_orthonormal():
    for data in _teachers(noise=0.1):
        np.testing.assert_allclose(data.index.T @ data.index, np.eye(data.index.shape[1]), atol=1e-13)


def test_whitened_teachers_have_the_identity_as_second_moment():
    for data in _teachers(whiten=True):
        np.testing.assert_allclose(data.S_xx, np.eye(D), atol=1e-13)


def test_targets_are_computed_from_the_whitened_inputs():
    data = linear_teacher(N, D, 2, key=KEY, whiten=True)
    assert _residual(data.x, data.y) < 1e-13


def test_inputs_have_the_given_covariance():
    factor = jax.random.normal(KEY, (3, 2))
    covariance = factor @ factor.T  # of rank two: one direction has no variance
    x = linear_teacher(20_000, 3, key=KEY, covariance=covariance).x
    # Entries of a sample covariance err by ≤ √2·‖covariance‖/√n.
    scale = np.linalg.norm(covariance, 2)
    np.testing.assert_allclose(x.T @ x / 20_000, covariance, atol=4 * 2**0.5 * scale / 20_000**0.5)
    null = jnp.linalg.eigh(covariance)[1][:, 0]
    np.testing.assert_allclose(x @ null, 0, atol=1e-6 * scale**0.5)


def test_named_links_follow_their_formulas():
    formulas = {
        "staircase": lambda z: z[:, 0] + z[:, 0] * z[:, 1] + z[:, 0] * z[:, 1] * z[:, 2],
        "product": lambda z: z[:, 0] * z[:, 1] * z[:, 2],
        "relu_sum": lambda z: np.maximum(z, 0).sum(axis=1),
    }
    for link, formula in formulas.items():
        data = multi_index(N, D, 3, key=KEY, link=link)
        np.testing.assert_allclose(data.y[:, 0], formula(np.asarray(data.x @ data.index)), atol=1e-13)
    formulas = {
        "hermite": lambda z: z + (z**2 - 1) / np.sqrt(2),
        "quadratic": lambda z: (z**2 - 1) / np.sqrt(2),
        "relu": lambda z: np.maximum(z, 0),
    }
    for link, formula in formulas.items():
        data = single_index(N, D, key=KEY, link=link)
        np.testing.assert_allclose(data.y, formula(np.asarray(data.x @ data.index)), atol=1e-13)


def test_a_link_can_be_a_function():
    data = multi_index(N, D, 2, key=KEY, link=lambda z: jnp.tanh(z))
    np.testing.assert_allclose(data.y, jnp.tanh(data.x @ data.index), atol=1e-13)
    data = single_index(N, D, key=KEY, link=jnp.sin)
    np.testing.assert_allclose(data.y, jnp.sin(data.x @ data.index), atol=1e-13)


def test_several_outputs_are_the_link_of_different_rotations_of_the_index():
    # The sum of squares is the one link that no rotation changes; the product changes with every one.
    data = multi_index(N, D, 2, key=KEY, outputs=3, link="product")
    z1, z2 = np.asarray(data.x @ data.index).T
    assert _residual(np.stack([z1**2, z1 * z2, z2**2], axis=1), data.y) < 1e-13
    assert np.linalg.matrix_rank(data.y) > 1


def test_index_directions_are_uniform_up_to_sign():
    directions = jax.vmap(lambda key: single_index(1, 3, key=key).index[:, 0])(jax.random.split(KEY, 4000))
    # Means of n uniform directions err by 1/√(3n), second moments by less.
    np.testing.assert_allclose(directions.mean(axis=0), np.zeros(3), atol=4 / (3 * 4000) ** 0.5)
    np.testing.assert_allclose(directions.T @ directions / 4000, np.eye(3) / 3, atol=4 / (3 * 4000) ** 0.5)


def test_noise_levels_share_inputs_and_truth():
    for quiet, loud in zip(_teachers(), _teachers(noise=0.5), strict=True):
        np.testing.assert_array_equal(quiet.x, loud.x)
        np.testing.assert_array_equal(quiet.index, loud.index)
        assert jnp.std(loud.y - quiet.y) == pytest.approx(0.5, rel=0.5)


@pytest.mark.parametrize(
    "teacher",
    [
        lambda key, noise: linear_teacher(N, D, 2, rank=2, key=key, noise=noise, whiten=True),
        lambda key, noise: multi_index(N, D, 2, key=key, outputs=2, noise=noise, covariance=jnp.eye(D)),
    ],
    ids=["linear", "multi"],
)
def test_keys_and_noise_can_be_batched(teacher):
    keys, noise = jax.random.split(KEY, 3), jnp.array([0.0, 0.1, 0.2])
    lanes = jax.jit(jax.vmap(teacher))(keys, noise)
    one = teacher(keys[2], noise[2])
    np.testing.assert_allclose(lanes.x[2], one.x, atol=1e-12)
    np.testing.assert_allclose(lanes.y[2], one.y, atol=1e-12)
    np.testing.assert_allclose(lanes.index[2], one.index, atol=1e-12)


def test_orthogonal_support_is_the_unit_vectors_with_their_probabilities():
    data = orthogonal_support(jnp.array([2.0, 1.0]), jnp.array([0.1, 0.9]))
    np.testing.assert_array_equal(data.x, np.eye(2))
    np.testing.assert_array_equal(data.y[:, 0], [2, 1])
    np.testing.assert_allclose(data.S_xx, np.diag([0.1, 0.9]), rtol=1e-15)


@pytest.mark.parametrize(("epsilon", "cosine"), [(1e-1, 0.39), (1e-2, 0.11), (1e-3, 0.033), (1e-4, 0.010)])
def test_the_alignment_at_zero_loss_vanishes_with_epsilon(epsilon, cosine):
    data = vanishing_alignment(epsilon)
    nfm, root_agop = data.y[:, 0], jnp.sqrt(data.sample_weight) * data.y[:, 0]
    found = nfm @ root_agop / jnp.linalg.norm(nfm) / jnp.linalg.norm(root_agop)
    assert found == pytest.approx(cosine, abs=0.005 if epsilon > 1e-3 else 0.0005)


def test_the_counterexample_can_be_batched_over_epsilon():
    epsilon = jnp.array([0.1, 0.01])
    lanes = jax.vmap(vanishing_alignment)(epsilon)
    np.testing.assert_allclose(lanes.y[:, 0, 0], epsilon**-0.5, rtol=1e-14)
    np.testing.assert_allclose(lanes.weight[:, 0], epsilon**3, rtol=1e-14)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: linear_teacher(0, D, key=KEY), "`samples` must be a whole number of at least 1, but was 0"),
        (lambda: linear_teacher(N, 0, key=KEY), "`inputs` must be a whole number"),
        (lambda: linear_teacher(N, D, 0, key=KEY), "`outputs` must be a whole number"),
        (
            lambda: linear_teacher(N, D, 2, rank=3, key=KEY),
            r"`rank` must be at most min\(inputs, outputs\) = 2, but was 3",
        ),
        (lambda: linear_teacher(N, D, key=KEY, noise=-0.1), "`noise` must be a non-negative number, but was -0.1"),
        (lambda: linear_teacher(3, D, key=KEY, whiten=True), "`samples` must be at least inputs = 6 .*, but was 3"),
        (
            lambda: linear_teacher(N, D, key=KEY, covariance=jnp.eye(2)),
            r"`covariance` must be an array of shape \(6, 6\)",
        ),
        (
            lambda: linear_teacher(N, 2, key=KEY, covariance=jnp.diag(jnp.array([1.0, -1.0]))),
            "`covariance` .* eigenvalue -1",
        ),
        (
            lambda: linear_teacher(N, 2, key=KEY, covariance=jnp.array([[1.0, 1.0], [0.0, 1.0]])),
            "`covariance` .* symmetric",
        ),
        (lambda: multi_index(N, D, 7, key=KEY), "`rank` must be at most inputs = 6, but was 7"),
        (lambda: multi_index(N, D, 2, key=KEY, outputs=0), "`outputs` must be a whole number"),
        (lambda: multi_index(N, D, 2, key=KEY, noise=-1.0), "`noise` must be a non-negative number"),
        (
            lambda: multi_index(N, D, 2, key=KEY, link="stair"),
            '`link` must be one of "staircase", "product", "relu_sum"',
        ),
        (
            lambda: multi_index(N, D, 2, key=KEY, link=lambda z: z.sum()),
            r"`link` must be a function .* one to shape \(\)",
        ),
        (lambda: multi_index(N, D, 2, key=KEY, outputs=3, link=jnp.tanh), r"`link` .* to shape \(40, 3\), but was"),
        (lambda: single_index(N, D, key=KEY, link="staircase"), '`link` must be one of "hermite", "quadratic", "relu"'),
        (lambda: orthogonal_support(jnp.array([1.0, 0.0]), jnp.ones(2) / 2), "`targets` must be positive everywhere"),
        (
            lambda: orthogonal_support(jnp.ones((1, 2)), jnp.ones(2) / 2),
            r"`targets` must be an array of shape \(n\), but was of shape \(1, 2\)",
        ),
        (
            lambda: orthogonal_support(jnp.ones(2), jnp.ones(2)),
            "`probabilities` must be numbers that sum to 1, but was summing to 2",
        ),
        (lambda: vanishing_alignment(0.0), "`epsilon` must be a positive number"),
        (lambda: vanishing_alignment(1.0), "`epsilon` must be a number between 0 and 1, but was 1"),
    ],
)
def test_a_wrong_argument_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
