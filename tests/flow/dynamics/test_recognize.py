import jax
import optax
import pytest

import nfa_flow as nf

D = nf.dynamics


@pytest.mark.parametrize(
    ("optimizer", "dynamics"),
    [
        (optax.sgd(0.1), D.Modified(0.1)),
        (optax.sgd(0.01, 0.9), D.HeavyBall(0.01, 0.9)),
        (optax.sgd(0.03, 0.5, nesterov=True), D.HeavyBall(0.03, 0.5, nesterov=True)),
        (optax.rmsprop(1e-3), D.RMSProp(1e-3)),
        (optax.rmsprop(3e-4, 0.99, 1e-6, eps_in_sqrt=False), D.RMSProp(3e-4, 0.99, 1e-6, eps_in_sqrt=False)),
        (optax.rmsprop(1e-3, bias_correction=True), D.RMSProp(1e-3, bias_correction=True)),
        (optax.adam(1e-3), D.Adam(1e-3)),
        (optax.adam(0.02, 0.8, 0.99, 1e-3), D.Adam(0.02, 0.8, 0.99, 1e-3)),
        (optax.adam(1e-3, b1=0.0), D.Adam(1e-3, b1=0.0)),
        (optax.inject_hyperparams(optax.adam)(1e-3), D.Adam(1e-3)),
        (optax.adamw(3e-4, weight_decay=0.1), D.AdamW(3e-4, weight_decay=0.1)),
    ],
)
def test_optimizers_are_recognized_with_their_hyperparameters(optimizer, dynamics):
    assert D.of(optimizer) == dynamics


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(optax.cosine_decay_schedule(0.1, 10**7)),  # whose first steps are those of a constant rate
        optax.inject_hyperparams(optax.adam)(learning_rate=optax.cosine_decay_schedule(0.1, 10**7)),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
        optax.adam(1e-3, nesterov=True),
        optax.adam(1e-3, eps_root=1e-4),
        optax.rmsprop(1e-3, momentum=0.9),
        optax.sign_sgd(0.1),
        optax.lion(1e-4),
        optax.lbfgs(),
        optax.chain(optax.sgd(0.1), nf.nets.scale_by_parametrization()),
    ],
)
def test_others_are_refused_in_a_sentence(optimizer):
    with pytest.raises(ValueError, match="`optimizer` must be"):
        D.of(optimizer)


def test_a_rate_that_is_traced_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="construct the dynamics yourself"):
        jax.jit(lambda rate: D.of(optax.adam(rate)).time_per_step)(0.1)


def test_inside_of_jit_an_optimizer_with_numbers_is_recognized():
    assert jax.jit(lambda x: x * D.of(optax.sgd(0.01, 0.9)).time_per_step)(1.0) == pytest.approx(0.1)
