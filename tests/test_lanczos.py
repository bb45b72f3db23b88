"""Lanczos against dense eigenvalue solvers, and where a Krylov space ends early."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfa_flow.lanczos import lanczos, largest_eigenvalue, unit

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
