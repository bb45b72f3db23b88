from urllib.error import URLError

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import sklearn.datasets
from sklearn.utils import Bunch

from nfa_flow.data import diabetes, digits, load_npz, openml

X = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def _serve(monkeypatch, **contents):
    """Let scikit-learn answer with these contents in place of a download; returns the arguments it is called with."""
    calls = []
    bunch = Bunch(**(dict(data=X, target=np.ones(3), feature_names=["a", "b"], categories={}) | contents))
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", lambda *args, **kwargs: calls.append((args, kwargs)) or bunch)
    return calls


def test_digits_are_1797_images_in_ten_classes():
    data = digits()
    assert (data.samples, data.inputs, data.outputs) == (1797, 64, 10)
    np.testing.assert_array_equal(data.y.sum(axis=1), np.ones(1797))
    np.testing.assert_array_equal(data.y.argmax(axis=1), sklearn.datasets.load_digits().target)


def test_digits_constant_pixels_become_zero():
    constant = np.ptp(sklearn.datasets.load_digits().data, axis=0) == 0
    variance = np.diag(digits().S_xx)
    np.testing.assert_array_equal(variance[constant], 0)
    np.testing.assert_allclose(variance[~constant], 1, rtol=1e-12)


def test_diabetes_has_standardized_inputs_and_target():
    data = diabetes()
    assert (data.samples, data.inputs, data.outputs) == (442, 10, 1)
    for columns in (data.x, data.y):
        np.testing.assert_allclose(columns.mean(axis=0), 0, atol=1e-13)
        np.testing.assert_allclose((columns**2).mean(axis=0), 1, rtol=1e-13)


def test_openml_numeric_target_is_one_column(monkeypatch, tmp_path):
    calls = _serve(monkeypatch, target=np.array([0.5, 1.5, 2.5]))
    data = openml("boston", version="active", cache=tmp_path)
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(data.y[:, 0], [0.5, 1.5, 2.5])
    assert calls == [(("boston",), dict(version="active", data_home=tmp_path, as_frame=False))]


def test_openml_categorical_target_is_one_hot_in_the_order_of_its_labels(monkeypatch):
    _serve(monkeypatch, target=np.array(["dog", "cat", "dog"], dtype=object), categories={"class": ["dog", "cat"]})
    np.testing.assert_array_equal(openml("pets").y, [[0, 1], [1, 0], [0, 1]])


def test_openml_sparse_inputs_become_dense(monkeypatch):
    _serve(monkeypatch, data=scipy.sparse.csr_matrix(X))
    np.testing.assert_array_equal(openml("sparse").x, X)


def test_openml_missing_values_are_an_error(monkeypatch):
    _serve(monkeypatch, data=np.where(X > 4, np.nan, X))
    with pytest.raises(ValueError, match="`name` must be a data set without missing values, but was 'gaps', with 2 in"):
        openml("gaps")


def test_openml_categorical_inputs_are_an_error(monkeypatch):
    _serve(monkeypatch, data=X.astype(object), categories={"b": ["x", "y"]})
    with pytest.raises(ValueError, match="`name` must be a data set of numeric inputs, but was 'adult', .* in b"):
        openml("adult")


@pytest.mark.parametrize(
    "failure", [URLError("no route to host"), TimeoutError("timed out"), ConnectionResetError("x")]
)
def test_openml_out_of_reach_says_where_it_looked(monkeypatch, tmp_path, failure):
    def unreachable(*args, **kwargs):
        raise failure

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", unreachable)
    with pytest.raises(ConnectionError, match="OpenML could not be reached for 'mnist_784'.* cached copy") as caught:
        openml("mnist_784", cache=tmp_path)
    assert str(tmp_path / "openml") in str(caught.value)
    assert caught.value.__cause__ is failure


@pytest.mark.parametrize("version", ["latest", 0])
def test_openml_version_is_a_number_or_active(version):
    with pytest.raises(ValueError, match="`version` must be"):
        openml("mnist_784", version=version)


def test_npz_arrays_come_back_as_they_were_saved(tmp_path):
    weight = np.array([0.5, 0.25, 0.25])
    np.savez(tmp_path / "data.npz", x=X.astype(np.float32), y=np.array([0, 1, 2]), weight=weight)
    data = load_npz(tmp_path / "data.npz")
    assert data.x.dtype == jnp.float32
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(data.y, [0, 1, 2])
    np.testing.assert_array_equal(data.sample_weight, weight)
    np.savez(tmp_path / "data.npz", x=X, y=X)
    assert load_npz(tmp_path / "data.npz").weight is None


def test_npz_that_does_not_exist_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="data.npz"):
        load_npz(tmp_path / "data.npz")


def test_npz_without_targets_says_what_it_holds(tmp_path):
    np.savez(tmp_path / "data.npz", x=X, labels=X)
    with pytest.raises(ValueError, match="with the arrays `x` and `y`, but was .*data.npz, which holds x, labels"):
        load_npz(tmp_path / "data.npz")


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_npz_of_python_objects_is_refused_without_unpickling(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.array([Trap(tmp_path / "sprung")], dtype=object), y=X)
    with pytest.raises(ValueError, match="`x` cannot be read"):
        load_npz(tmp_path / "data.npz")
    assert not (tmp_path / "sprung").exists()


def test_other_files_are_not_npz(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ValueError, match="`path` must be a NumPy .npz archive, but was .*, which holds a single array"):
        load_npz(tmp_path / "x.npy")
    (tmp_path / "text.npz").write_text("x, y")
    with pytest.raises(ValueError, match="`path` must be a NumPy .npz archive, but was .*text.npz"):
        load_npz(tmp_path / "text.npz")
