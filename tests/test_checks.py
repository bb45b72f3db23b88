"""Arguments in whatever they come: numbers in any container are taken, all else is refused by a sentence."""

import decimal

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

from nfa_flow.checks import described, real_array, require_key

NUMBERS = [[1.0, 2.0], [3.0, 4.0]]
CONTAINERS = {
    "data frame": pandas.DataFrame(NUMBERS),
    "nullable data frame": pandas.DataFrame(NUMBERS).astype("Float64"),
    "columns of two types": pandas.DataFrame({"a": [1, 3], "b": [2.0, 4.0]}).astype(object),
    "big-endian": np.array(NUMBERS, ">f8"),
    "long double": np.array(NUMBERS, np.longdouble),
    "decimals": [[decimal.Decimal(int(number)) for number in row] for row in NUMBERS],
    "nothing masked": np.ma.array(NUMBERS),
    "list of arrays": [jnp.array(row) for row in NUMBERS],
    "memory": memoryview(np.array(NUMBERS)),
    "float16": np.array(NUMBERS, np.float16),
    "unsigned": np.array(NUMBERS, np.uint8),
}
NO_NUMBERS = {
    "text": [["1", "2"]],
    "text as objects": np.array(["1"], object),
    "missing": pandas.DataFrame([[1.0, None]]).astype("Float64"),
    "ragged": [[1], [2, 3]],
    "a dict": {"x": NUMBERS},
    "a generator": (row for row in NUMBERS),
    "complex": 1j,
    "a key": jax.random.key(0),
    "dates": np.array(["2020-01-01"], "datetime64[D]"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_numbers_are_taken_from_any_container(name):
    np.testing.assert_array_equal(real_array("x", CONTAINERS[name], 2, "inputs"), NUMBERS)


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_what_holds_no_numbers_is_refused(name):
    with pytest.raises(ValueError, match="^`x` must be an array of real numbers, but was "):
        real_array("x", NO_NUMBERS[name], ...)


def test_masked_entries_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match="`x` must be without masked entries"):
        real_array("x", np.ma.masked_array([1.0, 2.0], [0, 1]), ...)
    with pytest.raises(ValueError, match=r"`x` must be an array of shape \(n, 3\), but was of shape \(2, 2\)"):
        real_array("x", NUMBERS, "n", 3)


def test_traced_numbers_pass_in_lists_too():
    np.testing.assert_array_equal(jax.jit(lambda t: real_array("x", [t, 2 * t], 2))(1.0), [1, 2])


@pytest.mark.parametrize("key", [0, None, jnp.ones(2), jax.random.split(jax.random.key(0)), np.uint32(3)])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(ValueError, match="`key` must be one PRNG key, as from `jax.random.key"):
        require_key("key", key)


def test_keys_of_both_forms_pass_under_vmap_too():
    require_key("key", jax.random.key(0, impl="rbg"))
    require_key("key", jax.random.PRNGKey(0))
    jax.vmap(lambda key: require_key("key", key))(jax.random.split(jax.random.key(0), 2))


def test_values_are_described_in_a_few_words():
    assert described(np.ones((500, 2))) == "an array of shape (500, 2) and type float64"
    assert described("x\n" * 100).endswith(" …") and len(described(list(range(100)))) == 78
