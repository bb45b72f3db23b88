"""Lanczos against dense eigenvalue solvers, and where a Krylov space ends early."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.numerics.lanczos import lanczos, largest_eigenvalue, largest_eigenvalues, unit

RTOL = 1e-4


@jax.jit
def largest(H, start, max_products=1000):
    return largest_eigenvalue(lambda v: H @ v, start, RTOL, max_products)


@jax.jit
def ritz_pair(H, start):
    return lanczos(lambda v: H @ v, start, 5)


def symmetric(seed, size=60):
    G = np.random.default_rng(seed).normal(size=(size, size))
    return jnp.asarray(G + G.T)


def random_vector(size=60, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=size))


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_eigenvalue_is_found_to_the_tolerance(seed):
    H = symmetric(seed)
    found = largest(H, random_vector())
    assert abs(found.value - np.linalg.eigvalsh(H)[-1]) <= RTOL * found.value
    assert found.residual <= RTOL * found.value


def test_it_is_the_largest_with_its_sign_not_the_largest_in_magnitude():
    found = largest(-jnp.diag(jnp.arange(1.0, 61.0)), random_vector())
    np.testing.assert_allclose(found.value, -1, rtol=RTOL)


def test_the_residual_is_that_of_the_ritz_pair():
    H = symmetric(1)
    value, residual, vector, _ = ritz_pair(H, random_vector())
    np.testing.assert_allclose(jnp.linalg.norm(vector), 1, rtol=1e-14)
    np.testing.assert_allclose(jnp.linalg.norm(H @ vector - value * vector), residual, rtol=1e-10)


def test_as_many_steps_as_dimensions_are_exact():
    H = symmetric(2, size=5)
    value, residual, vector, _ = ritz_pair(H, random_vector(5))
    eigenvalue = np.linalg.eigvalsh(H)[-1]
    np.testing.assert_allclose(value, eigenvalue, rtol=1e-14)
    assert residual < 1e-12 * eigenvalue
    np.testing.assert_allclose(H @ vector, eigenvalue * vector, atol=1e-13 * eigenvalue)


@pytest.mark.parametrize("eigenvalue", [3.0, -3.0, 1e8, -1e8, 0.0])
@pytest.mark.parametrize("size", [1, 5])
def test_a_space_of_one_dimension_is_no_special_case(size, eigenvalue):
    value, residual, vector, _ = ritz_pair(eigenvalue * jnp.eye(size), random_vector(size))
    np.testing.assert_allclose(value, eigenvalue, rtol=1e-15)
    np.testing.assert_allclose(
        vector * jnp.sign(vector[0]), unit(random_vector(size)) * np.sign(random_vector(size)[0])
    )
    assert residual <= 1e-14 * abs(eigenvalue)


def test_a_zero_start_gives_zeros():
    for found in (ritz_pair(symmetric(0), jnp.zeros(60)), largest(symmetric(0), jnp.zeros(60))):
        assert all(jnp.all(part == 0) for part in (found.value, found.residual, found.vector))


def test_no_product_is_made_when_none_is_allowed():
    start = random_vector()
    found = largest(symmetric(0), start, 0)
    assert found.products == 0
    assert jnp.all(found.vector == start)


def test_products_are_counted_and_bounded():
    products = []

    def product(v):
        jax.debug.callback(lambda: products.append(1))
        return symmetric(3) @ v

    found = jax.jit(lambda start: largest_eigenvalue(product, start, 0.0, 12))(random_vector())
    jax.effects_barrier()
    # Whole cycles of five.
    assert found.products == len(products) == 15


def test_a_batch_gives_what_its_members_give():
    H = jnp.stack([symmetric(seed) for seed in range(3)])
    start = random_vector()
    batched = jax.vmap(largest, (0, None))(H, start)
    for lane in range(3):
        alone = largest(H[lane], start)
        assert batched.products[lane] == alone.products
        np.testing.assert_allclose(batched.value[lane], alone.value, rtol=1e-13)


def test_float32_is_kept():
    H = symmetric(4).astype(jnp.float32)
    found = largest(H, random_vector().astype(jnp.float32))
    assert found.value.dtype == found.vector.dtype == jnp.float32
    np.testing.assert_allclose(found.value, np.linalg.eigvalsh(np.asarray(H, float))[-1], rtol=RTOL)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("top", [0.0, -1e-3])
def test_a_largest_eigenvalue_near_zero_beside_large_negative_ones(top, dtype):
    eigenvalues = jnp.concatenate([jnp.array([top]), -jnp.arange(1.0, 101.0)]).astype(dtype)
    start = jax.random.normal(jax.random.key(0), eigenvalues.shape, eigenvalues.dtype)
    found = largest_eigenvalue(lambda v: eigenvalues * v, start, 0.01)
    assert abs(found.value - top) < 0.01 * 1e-3 * 100 + 1e-9
    assert found.products < 300


# ── Several at once ──


@jax.jit
def several(H, start):
    return largest_eigenvalues(lambda v: H @ v, start, RTOL)


def random_vectors(k, size=60):
    return jnp.asarray(np.random.default_rng(7).normal(size=(k, size)))


def rotated(eigenvalues):
    Q, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(60, 60)))
    return jnp.asarray((Q * eigenvalues) @ Q.T)


SPECTRA = {
    "indefinite": np.linalg.eigvalsh(symmetric(0))[::-1],
    "negative": -np.arange(1.0, 61.0),
    "triple and double": np.concatenate([[5, 5, 5, 2, 2], np.linspace(1, -4, 55)]),
    "more often than asked for": np.concatenate([np.full(9, -1.0), -np.arange(2.0, 53.0)]),
    "rank two": np.concatenate([[3, 1], np.zeros(58)]),
    "identity": np.ones(60),
    "zero": np.zeros(60),
    "nearly zero beside large negative": np.concatenate([[1e-3, 0, 0], -np.arange(1.0, 58.0)]),
    "few distinct": np.repeat([4.0, 1.0, -1.0, -9.0], 15),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("eigenvalues", SPECTRA.values(), ids=SPECTRA)
def test_the_largest_eigenvalues_are_found_with_their_multiplicity(eigenvalues, dtype):
    H, k = rotated(eigenvalues).astype(dtype), 5
    found = several(H, random_vectors(k).astype(dtype))
    assert found.values.dtype == dtype
    size = np.abs(eigenvalues).max()
    within = np.maximum(RTOL * np.maximum(np.abs(eigenvalues[:k]), 1e-3 * size), 200 * jnp.finfo(dtype).eps * size)
    assert np.all(np.abs(found.values - eigenvalues[:k]) <= within)
    images = found.vectors @ H
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(k), atol=1e3 * float(jnp.finfo(dtype).eps))
    assert np.all(np.linalg.norm(images - found.values[:, None] * found.vectors, axis=1) <= 2 * within)


@pytest.mark.parametrize("k", [1, 5])
def test_they_may_be_all_that_there_are(k):
    H = symmetric(2, size=5)
    eigenvalues = np.linalg.eigvalsh(H)[::-1]
    np.testing.assert_allclose(several(H, random_vectors(k, 5)).values, eigenvalues[:k], atol=1e-13 * eigenvalues[0])


def test_one_of_several_is_the_largest():
    H = symmetric(3)
    np.testing.assert_allclose(several(H, random_vectors(1)).values[0], largest(H, random_vector()).value, rtol=RTOL)


def test_those_that_were_not_found_are_nan():
    found = jax.jit(lambda H: largest_eigenvalues(lambda v: H @ v, random_vectors(3), RTOL, max_cycles=1))(symmetric(0))
    assert found.products == 12
    assert np.all(found.residuals > RTOL * np.linalg.norm(symmetric(0), 2)) and np.all(np.isnan(found.values))


def test_an_operator_of_nan_ends_at_once():
    found = several(jnp.full((60, 60), jnp.nan), random_vectors(5))
    assert np.all(np.isnan(found.values)) and found.products == 20


def test_several_in_a_batch_are_what_its_members_give():
    H = jnp.stack([symmetric(seed) for seed in range(3)])
    batched = jax.vmap(several, (0, None))(H, random_vectors(5))
    for lane in range(3):
        alone = several(H[lane], random_vectors(5))
        assert batched.products[lane] == alone.products
        np.testing.assert_allclose(batched.values[lane], alone.values, rtol=1e-12)
