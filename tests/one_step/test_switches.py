"""Theory, one step, data and networks where JAX promotes no dtypes and no ranks."""

import jax
import jax.numpy as jnp
import pytest

import nfa_flow as nf

KEY = jax.random.key(0)


def losses():
    teacher, relu = nf.theory.hermite(nf.theory.hermite_series([0, 1, 0.5])), nf.theory.hermite("relu")
    direction = nf.theory.gradient_direction(teacher, 0.5, activation=relu)
    S = nf.theory.spike_matrix("relu", 0.5, direction, 10)
    finite = nf.theory.finite_ridge_losses(0.1, 0.5, 0.5, relu, teacher, S, direction)
    limit = nf.theory.ridge_losses(0.1, 0.5, 0.5, relu, teacher, orders=(1, 2), direction=direction)
    return finite, limit, nf.theory.linear_losses(0.1, 0.5, teacher)


def step():
    data = nf.data.linear_teacher(12, 3, 1, key=KEY)
    net = nf.one_step.two_layer_net(3, 4, "relu", key=KEY)
    F, y = nf.one_step.features(nf.one_step.one_step(net, data, 0.5, steps=2), data.x), data.y[:, 0]
    U = nf.one_step.powers(data.x, nf.one_step.gradient_vector(net, data)[:, 0], (1, 2))
    fit = nf.one_step.ridge_fit(F, y, 0.1, free=U)
    overlap = nf.one_step.spike_overlap(nf.one_step.feature_spectrum(F, vectors=1).left, U)
    return fit, fit.test(F, y, free=U), overlap, nf.one_step.cancel_output(net, data).y


def starts():
    data = nf.data.whiten(nf.data.add_label_noise(nf.data.linear_teacher(12, 3, 2, key=KEY), 0.1, key=KEY))
    nets = [nf.nets.MLP([3, 4, 2], key=KEY, parametrization=name) for name in ("NTP", "muP", "Spectral")]
    return [jax.vmap(net)(data.x) for net in nets]


@pytest.mark.parametrize("results", [losses, step, starts])
@pytest.mark.parametrize(
    "switch", [lambda: jax.numpy_dtype_promotion("strict"), lambda: jax.numpy_rank_promotion("raise")]
)
def test_the_switches_change_no_result(results, switch):
    with switch():
        found = results()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(results()), strict=True):
        assert jnp.allclose(a, b, rtol=1e-10, atol=1e-12)
