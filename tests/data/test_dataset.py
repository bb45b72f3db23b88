import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfa_flow.data import Dataset

X = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
Y = np.array([1.0, 0.0, 2.0])


@pytest.mark.parametrize("y", [np.array([[0, 1], [2, 3], [4, 5]]), np.array([True, False, True])])
def test_targets_that_are_no_labels_become_floating_jax_arrays(y):
    data = Dataset(X, y)
    assert isinstance(data.x, jax.Array) and isinstance(data.y, jax.Array)
    assert data.x.dtype == data.y.dtype == jnp.zeros(()).dtype and not data.has_labels


def test_a_vector_of_integers_is_one_of_class_labels():
    data = Dataset(X.astype(np.float32), np.array([2, 0, 1], np.uint8), weight=np.array([0.2, 0.3, 0.5]))
    assert data.has_labels and data.y.shape == (3,) and data.y.dtype == jnp.int32 and data.outputs == 3
    assert data.dtype == data.sample_weight.dtype == jnp.float32
    one_hot = data.one_hot()
    np.testing.assert_array_equal(one_hot.y, np.eye(3)[[2, 0, 1]])
    assert one_hot.y.dtype == jnp.float32 and data.one_hot(5).outputs == 5
    with pytest.raises(ValueError, match="`classes` must be a whole number of at least 3, but was 2"):
        data.one_hot(2)
    with pytest.raises(ValueError, match="`data` must be of class labels, a vector of integers, but was of targets"):
        one_hot.one_hot()
    with pytest.raises(ValueError, match=r"`data` must be of targets that are numbers \(`data.one_hot\(\)`\)"):
        data.S_xy  # noqa: B018  (the property raises)


def test_samples_of_any_shape_and_several_arrays_for_each():
    images, tokens = np.ones((3, 1, 8, 8), np.uint8), np.arange(12).reshape(3, 4)
    data = Dataset({"image": images, "tokens": tokens}, Y)
    assert data.samples == 3 and data.x["image"].dtype == jnp.float64
    assert jnp.issubdtype(data.x["tokens"].dtype, jnp.integer)
    assert data.astype(jnp.float32).x["tokens"].dtype == data.x["tokens"].dtype
    assert repr(data) == "Dataset(3 samples, samples of shape 1×8×8 and 4 -> 1 output, float64)"
    assert repr(Dataset(images, np.zeros(3, int))) == "Dataset(3 samples, samples of shape 1×8×8 -> labels, float64)"
    for matrix in ("inputs", "X", "S_xx"):
        with pytest.raises(
            ValueError, match="`data` must be of vectors, samples × inputs, but was of samples of shape"
        ):
            getattr(data, matrix)


def test_a_vector_of_targets_becomes_one_column():
    assert Dataset(X, Y).y.shape == (3, 1)


def test_the_wider_dtype_of_inputs_and_targets_is_taken():
    assert Dataset(X.astype(np.float32), Y).x.dtype == jnp.float64


def test_sizes_are_plain_integers():
    data = Dataset(X, np.ones((3, 4)))
    assert (data.samples, data.inputs, data.outputs) == (3, 2, 4)


def test_without_weights_every_sample_counts_one_nth():
    np.testing.assert_array_equal(Dataset(X, Y).sample_weight, np.full(3, 1 / 3))


def test_moments_are_the_sums_over_samples():
    weight = np.array([0.5, 0.25, 0.25])
    data = Dataset(X, Y, weight)
    np.testing.assert_allclose(data.S_xx, sum(w * np.outer(x, x) for w, x in zip(weight, X, strict=True)), rtol=1e-14)
    np.testing.assert_allclose(
        data.S_xy[:, 0], sum(w * x * y for w, x, y in zip(weight, X, Y, strict=True)), rtol=1e-14
    )
    np.testing.assert_allclose(data.S_yy, [[0.5 * 1 + 0.25 * 0 + 0.25 * 4]], rtol=1e-14)


@settings(max_examples=6, deadline=None)
@given(st.permutations([1, 2, 4]))
def test_weights_mean_the_same_as_repeated_samples(counts):
    weighted = Dataset(X, Y, weight=np.array(counts) / sum(counts))
    repeated = Dataset(np.repeat(X, counts, axis=0), np.repeat(Y, counts))
    for moment in ("S_xx", "S_xy", "S_yy"):
        np.testing.assert_allclose(getattr(weighted, moment), getattr(repeated, moment), rtol=1e-13)


def test_rows_keep_the_meaning_of_the_weights():
    data = Dataset({"a": X, "b": np.arange(9).reshape(3, 3)}, np.array([2, 0, 1]), np.array([0.5, 0.25, 0.25]))
    for rows in (np.array([0, 2]), np.array([True, False, True]), slice(0, None, 2)):
        part = data[rows]
        np.testing.assert_array_equal(part.x["b"], [[0, 1, 2], [6, 7, 8]])
        np.testing.assert_array_equal(part.y, [2, 1])
        np.testing.assert_allclose(part.weight, [2 / 3, 1 / 3], rtol=1e-15)


def test_astype_changes_every_array():
    data = Dataset(X, Y, np.full(3, 1 / 3), index=np.eye(2)).astype(jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(data)} == {jnp.dtype(jnp.float32)}


def test_repr_says_the_sizes_and_the_dtype():
    assert repr(Dataset(X, np.ones((3, 10)))) == "Dataset(3 samples, 2 inputs -> 10 outputs, float64)"
    assert repr(Dataset(X[:1], Y[:1], np.ones(1))) == "Dataset(1 sample, 2 inputs -> 1 output, float64, weighted)"


def test_repr_works_while_tracing_and_on_trees_of_specifications():
    shown = []
    jax.jit(lambda data: shown.append(repr(data)) or data.x)(Dataset(X, Y))
    assert shown == ["Dataset(3 samples, 2 inputs -> 1 output, float64)"]
    assert "Dataset" in repr(jax.tree.map(lambda _: 0, Dataset(X, Y)))


def test_a_dataset_can_be_built_and_used_under_jit_and_vmap():
    np.testing.assert_allclose(jax.jit(lambda x, y: Dataset(x, y).S_xx)(X, Y), Dataset(X, Y).S_xx)
    lanes = eqx.filter_vmap(lambda scale: Dataset(scale * X, Y, jnp.full(3, 1 / 3)))(jnp.array([1.0, 2.0]))
    moments = jax.vmap(lambda data: data.S_xx)(lanes)
    np.testing.assert_allclose(moments[1], 4 * moments[0], rtol=1e-14)


def test_the_number_of_classes_is_not_known_inside_a_trace():
    outputs = lambda y, classes: (Dataset(X, y) if classes is None else Dataset(X, y).one_hot(classes)).outputs
    labels = jnp.array([0, 1, 2])
    with pytest.raises(
        ValueError, match=r"`data` must be of one-hot targets inside a trace.*, but was of class labels"
    ):
        jax.jit(outputs, static_argnums=1)(labels, None)
    assert jax.jit(outputs, static_argnums=1)(labels, 4) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(x=Y, y=Y), r"`x` must be a matrix .* but was of shape \(3,\)"),
        (dict(x=X[:0], y=Y[:0]), r"`x` must be a matrix .* but was of shape \(0, 2\)"),
        (dict(x=X, y=Y[:2]), r"`y` must be a matrix .* 3 rows of `x`, but was of shape \(2, 1\)"),
        (dict(x=X, y=np.ones((3, 0))), r"`y` must be a matrix"),
        (dict(x=X, y=np.array([-1, 1, 1])), "`y` must be class labels, from 0 on, .* but was -1 at its smallest"),
        (
            dict(x={"a": X, "b": X[:2]}, y=Y),
            r"`x` must be of arrays with as many rows, but was of 3 in `x\['a'\]`, 2 in",
        ),
        (dict(x={"a": X.astype(str)}, y=Y), r"`x\['a'\]` must be an array of real numbers"),
        (dict(x={}, y=Y), r"`x` must be an array \(samples × inputs\), or a dictionary of arrays"),
        (dict(x=X[:, :, None], y=Y, index=np.eye(2)), "`data` must be of vectors"),
        (dict(x=np.where(X > 4, np.nan, X), y=Y), "`x` must be finite everywhere, but was NaN or infinite in 2 of 6"),
        (dict(x=X, y=np.full(3, np.inf)), "`y` must be finite everywhere"),
        (dict(x=X.astype(str), y=Y), "`x` must be an array of real numbers"),
        (dict(x=X, y=Y * 1j), "`y` must be an array of real numbers, but was an array of .* type complex128"),
        (dict(x=X, y=Y, weight=np.ones(2) / 2), r"`weight` must be a vector .* 3 samples, but was of shape \(2,\)"),
        (dict(x=X, y=Y, weight=np.array([1.0, 0.5, -0.5])), "`weight` must be non-negative everywhere, but was -0.5"),
        (dict(x=X, y=Y, weight=np.ones(3)), "`weight` must be .* sum to 1 .*, but was summing to 3"),
        (dict(x=X, y=Y, weight=np.array([np.nan, 0.5, 0.5])), "`weight` must be finite"),
        (dict(x=X, y=Y, index=np.eye(3)), "`index` must be a matrix with a row for each of the 2 inputs"),
        (dict(x=X, y=Y, index=2 * np.eye(2)), "`index` must be a matrix with orthonormal columns"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Dataset(**arguments)
