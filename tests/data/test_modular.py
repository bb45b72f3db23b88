import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.data import from_torch, modular


def test_every_pair_of_numbers_has_its_result():
    p = 5
    for name, operation in {"add": int.__add__, "subtract": int.__sub__, "multiply": int.__mul__}.items():
        data = modular(p, name)
        assert data.has_labels and data.outputs == p and jnp.issubdtype(data.x.dtype, jnp.integer)
        expected = {(a, b): operation(a, b) % p for a in range(p) for b in range(p)}
        assert {(int(a), int(b)): int(c) for (a, b), c in zip(data.x, data.y, strict=True)} == expected
    with pytest.raises(ValueError, match='`operation` must be one of "add", "subtract", "multiply"'):
        modular(p, "divide")


def test_a_sequence_of_pairs_becomes_a_data_set():
    pairs = [(np.full((1, 2, 2), k, np.float32), k % 2) for k in range(4)]
    data = from_torch(pairs)
    np.testing.assert_array_equal(data.x[:, 0, 0, 0], range(4))
    np.testing.assert_array_equal(data.y, [0, 1, 0, 1])
    assert data.has_labels and data.dtype == jnp.float32 and from_torch(pairs, samples=3).samples == 3
    for wrong in (iter(pairs), [], [1.0, 2.0]):
        with pytest.raises(ValueError, match="`pairs` must be a sequence of pairs"):
            from_torch(wrong)
    with pytest.raises(ValueError, match="all of the same shapes, but was one that cannot be stacked"):
        from_torch([*pairs, (np.ones(3), 0)])
