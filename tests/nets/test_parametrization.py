"""Starts and mobilities as powers of the width, verdicts on the limit, and other coordinates for the same training."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nfa_flow as nf
from nfa_flow.nets import ABC, MLP, NTP, SP, MeanField, Spectral, muP

KEY = jax.random.key(0)
N, D = 16.0, 4
WIDTHS = (D, int(N), int(N), 3)
SCHEMES = [SP(), NTP(), muP(), MeanField(), muP("adam"), MeanField("adam")]

TABLE = {
    SP(): ([1, N**-0.5, N**-0.5], [1 / N, 1 / N, 1 / N]),
    NTP(): ([1, N**-0.5, N**-0.5], [1, 1 / N, 1 / N]),
    muP(): ([1, N**-0.5, 1 / N], [N, 1, 1 / N]),
    MeanField(): ([1, 1 / N, 1 / N], [N, 1, 1 / N]),
    muP("adam"): ([1, N**-0.5, 1 / N], [1, 1 / N, 1 / N]),
    MeanField("adam"): ([1, 1 / N, 1 / N], [1, 1 / N, 1 / N]),
}


def name(value):
    return f"{value.name}, {value.rule}" if isinstance(value, nf.nets.AbstractParametrization) else None


@pytest.mark.parametrize("scheme", SCHEMES, ids=name)
def test_starts_and_mobilities_are_those_of_the_literature(scheme):
    std, mobility = TABLE[scheme]
    effective = scheme.effective(WIDTHS)
    np.testing.assert_allclose(effective.std, np.array(std) * [D**-0.5, 1, 1], rtol=1e-14)
    np.testing.assert_allclose(effective.mobility, mobility, rtol=1e-14)


def test_the_hidden_exponents_are_those_of_every_hidden_layer():
    deep = muP().effective((D, 16, 16, 16, 16, 3))
    assert deep.std[1:-1] == muP().effective(WIDTHS).std[1:2] * 3
    assert deep.mobility == (16, 1, 1, 1, 1 / 16)
    assert muP().effective((D, 16, 3)).mobility == (16, 1 / 16)


def test_the_spectral_parametrization_goes_by_the_fans_of_each_layer():
    effective = Spectral().effective((4, 16, 9, 3))
    np.testing.assert_allclose(effective.std, [1 / 2, (9 / 16) ** 0.5 / 4, (3 / 9) ** 0.5 / 3], rtol=1e-14)
    np.testing.assert_allclose(effective.mobility, [16 / 4, 9 / 16, 3 / 9], rtol=1e-14)
    np.testing.assert_allclose(Spectral("adam").effective((4, 16, 9, 3)).mobility, [1 / 4, 1 / 16, 1 / 9], rtol=1e-14)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_the_spectral_parametrization_grows_with_the_width_as_mup(rule):
    ratio = lambda scheme, part: np.divide(*(getattr(scheme.effective((D, n, n, 3)), part) for n in (1024, 64)))
    for part in ("std", "mobility"):
        np.testing.assert_allclose(ratio(Spectral(rule), part), ratio(muP(rule), part), rtol=1e-13)


STABLE, LEARNS = True, True


@pytest.mark.parametrize(
    ("scheme", "r", "is_stable", "learns"),
    [
        (SP(), 0.5, STABLE, False),
        (ABC(SP().a, SP().b, (0, 0, 0)), -1, False, False),  # a learning rate that does not fall with n
        (ABC(SP().a, SP().b, (2, 2, 2)), 1.5, STABLE, False),  # one so small that nothing moves
        (NTP(), 0.5, STABLE, False),
        (muP(), 0, STABLE, LEARNS),
        (ABC(muP().a, (0.5, 0.5, 0), muP().c), -0.5, False, False),  # read-out weights of NTP: features blow up
        (ABC(muP().a, (0.5, 0.4, 0.5), muP().c), 0, False, False),  # activations blow up at the start
        (MeanField().at_depth(2), 0, STABLE, LEARNS),
        (MeanField(), 0, False, False),  # activations vanish at the start
        (Spectral(), 0, STABLE, LEARNS),
        (muP("adam"), 0, STABLE, LEARNS),
        (Spectral("adam"), 0, STABLE, LEARNS),
        (ABC((0, 0, 0), (0, 0.5, 0.5), (1, 1, 1), rule="adam"), 0, False, False),  # SP: outputs grow like √n
        (ABC((0, 0, 0), (0, 0.5, 0.5), (1.5, 1.5, 1.5), rule="adam"), 0.5, STABLE, False),
        (ABC((0, 0, 0), (0, 0.5, 0.5), (0, 0, 0), rule="adam"), -1, False, False),
    ],
)
def test_verdicts_are_those_of_the_dichotomy(scheme, r, is_stable, learns):
    assert scheme.r == pytest.approx(r, abs=1e-12)
    assert (scheme.is_stable, scheme.learns_features) == (is_stable, learns)


@given(st.sampled_from(SCHEMES), st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_a_shift_changes_nothing_but_the_coordinates(scheme, theta):
    shifted = scheme.shift(theta)
    np.testing.assert_allclose(shifted.effective(WIDTHS), scheme.effective(WIDTHS), rtol=1e-13)
    assert shifted.r == pytest.approx(scheme.r, abs=1e-12)
    assert shifted.is_stable == scheme.is_stable and shifted.learns_features == scheme.learns_features
    np.testing.assert_allclose(shifted.a, np.add(scheme.a, theta), atol=1e-15)


def test_mup_without_multipliers_has_a_learning_rate_per_layer():
    assert muP().shift((0.5, 0, -0.5)) == ABC((0, 0, 0), (0, 0.5, 1), (-1, 0, 1), name="muP")


STEPS, ETA = 20, 0.1
OPTIMIZERS = {"sgd": optax.sgd(ETA), "adam": optax.adam(0.01, eps=0.0)}
NAMES = list(OPTIMIZERS)
DATA = nf.data.linear_teacher(20, D, 3, key=jax.random.key(1), noise=0.1)


@partial(jax.jit, static_argnames="rule")
def train(net, multipliers, rates, rule):
    """The weights W = multiplier × w after training w with a learning rate for each layer."""
    loss = lambda w: nf.measure.loss(net.with_weights([m * each for m, each in zip(multipliers, w, strict=True)]), DATA)

    def step(carry, _):
        w, state = carry
        updates, state = OPTIMIZERS[rule].update(jax.grad(loss)(w), state)
        return (tuple(each + rate * u for each, rate, u in zip(w, rates, updates, strict=True)), state), None

    start = tuple(W / m for W, m in zip(net.weights, multipliers, strict=True))
    (w, _), _ = jax.lax.scan(step, (start, OPTIMIZERS[rule].init(start)), None, STEPS)
    return [m * each for m, each in zip(multipliers, w, strict=True)]


def trained(net, scheme):
    powers = lambda exponents: [jnp.asarray(N**-each) for each in exponents]
    return train(net, powers(scheme.a), powers(scheme.c), scheme.rule)


@pytest.mark.parametrize("rule", NAMES)
def test_networks_train_alike_in_all_coordinates_and_in_their_weights_themselves(rule):
    """Adam without its ε too, whose steps are the same for gradients of any size. Rounding differs, no more."""
    scheme = muP(rule)
    net = MLP(WIDTHS, key=KEY, activation="tanh", parametrization=scheme)
    optimizer = optax.chain(OPTIMIZERS[rule], nf.nets.scale_by_parametrization())
    run = nf.gradient_descent(net, DATA, optimizer, STEPS, time_per_step=1.0, save_at=[STEPS], progress=False)
    moved = np.max(np.abs(net.weights[1] - run.net.weights[1]))
    assert moved > 1e-3
    for same in (scheme, scheme.shift(0.3), scheme.shift((0.5, 0.2, -0.5))):
        for ours, theirs in zip(run.net.weights, trained(net, same), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)
    # The shift of the other rule is of other learning rates.
    shifted, step = scheme.shift(0.3), 0.3 if rule == "sgd" else -0.3
    other = trained(net, ABC(shifted.a, shifted.b, [each + step for each in shifted.c], rule))
    assert np.max(np.abs(run.net.weights[1] - other[1])) > 0.1 * moved


def test_sp_and_ntp_start_as_gaussian_networks_do():
    for scheme in (SP(), NTP()):
        for ours, theirs in zip(
            MLP(WIDTHS, key=KEY, parametrization=scheme).weights, MLP(WIDTHS, key=KEY).weights, strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-14)


def test_all_start_from_the_same_normal_numbers():
    normal = [W / s for W, s in zip(MLP(WIDTHS, key=KEY).weights, SP().effective(WIDTHS).std, strict=True)]
    for scheme in ("muP", "MeanField", "Spectral"):
        net = MLP(WIDTHS, key=KEY, parametrization=scheme)
        for W, s, z in zip(net.weights, net.parametrization.effective(WIDTHS).std, normal, strict=True):
            np.testing.assert_allclose(W, s * z, rtol=1e-13)


def test_a_network_knows_its_parametrization():
    net = MLP(WIDTHS, key=KEY, parametrization="muP")
    assert net.parametrization == muP() and MLP(WIDTHS, key=KEY).parametrization is None
    assert repr(net) == "MLP(4-16-16-3, identity, muP, float64)"
    assert net.mobility == (16, 1, 1 / 16) and MLP(WIDTHS, key=KEY).mobility is None
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(net))


@pytest.mark.parametrize(
    ("scheme", "hidden", "output"),
    [
        (SP(), 1 / 16, 1),
        (NTP(), 1, 1),
        (muP(), 16, 1),
        (Spectral(), 16, 3),
        (muP("adam"), 1, 1),
        (Spectral("adam"), 1, 1),
    ],
    ids=name,
)
def test_biases_move_like_the_weight_of_a_constant_input(scheme, hidden, output):
    net = MLP(WIDTHS, key=KEY, bias=True, parametrization=scheme)
    assert [layer.bias for layer in net.mobility.layers] == [hidden, hidden, output]
    assert tuple(layer.weight for layer in net.mobility.layers) == scheme.effective(WIDTHS).mobility
    updates = nf.nets.scale_by_parametrization().update(jax.tree.map(jnp.ones_like, net), optax.EmptyState())[0]
    for layer, weight, bias in zip(
        updates.layers, scheme.effective(WIDTHS).mobility, (hidden, hidden, output), strict=True
    ):
        np.testing.assert_allclose(layer.weight, weight)
        np.testing.assert_allclose(layer.bias, bias)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: MLP(WIDTHS, key=KEY, parametrization="mup"),
            '`parametrization` must be one of "SP", "NTP", "muP".*\'mup\'',
        ),
        (lambda: MLP(WIDTHS, key=KEY, parametrization=muP), "`parametrization` must be a name or a parametrization"),
        (
            lambda: MLP(WIDTHS, key=KEY, parametrization="SP", init=nf.nets.Balanced()),
            "`init` must be left out, because SP",
        ),
        (
            lambda: MLP((4, 3), key=KEY, parametrization="muP"),
            r"`widths` must be \(inputs, hidden .* for muP, .*\[4, 3\]",
        ),
        (lambda: MLP((4, 3), key=KEY, parametrization="Spectral"), "`widths` must be .* for Spectral"),
        (
            lambda: MLP((4, 8, 9, 3), key=KEY, parametrization="NTP"),
            "`widths` must be equal in all hidden layers for NTP",
        ),
        (lambda: muP().effective((4, 0, 0, 3)), "`widths` must be a whole number of at least 1, but was 0"),
        (lambda: Spectral().effective((4, -8, 3)), "`widths` must be a whole number of at least 1, but was -8"),
        (lambda: muP("lion"), '`rule` must be one of "sgd", "adam", but was \'lion\''),
        (lambda: Spectral("lion"), "`rule` must be one of"),
        (lambda: ABC((0, 0, 0), (0, 0), (0, 0, 0)), "`b` must be of as many layers as `a`, 3, but was of 2"),
        (lambda: ABC((0,), (0,), (0,)), "`a` must be a sequence of exponents, of two layers at least"),
        (lambda: ABC((0, np.nan), (0, 0), (0, 0)), "`a` must be a finite number"),
        (lambda: ABC((0,) * 4, (0,) * 4, (0,) * 4).effective(WIDTHS), "`depth` must be 4, .* but was 3"),
        (lambda: muP().at_depth(1), "`depth` must be a whole number of at least 2"),
        (lambda: muP().shift((0.1, 0.2)), "`theta` must be one number, or one for each of 3 layers, but was 2 numbers"),
        (lambda: muP().shift(np.inf), "`theta` must be a finite number"),
    ],
)
def test_mistakes_are_named(call, message, no_type_checks):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_rates_of_no_parametrization_are_refused():
    net = MLP(WIDTHS, key=KEY)
    optimizer = optax.chain(optax.sgd(0.1), nf.nets.scale_by_parametrization())
    with pytest.raises(ValueError, match="`net` must be an `MLP` with a `parametrization`"):
        nf.gradient_descent(net, DATA, optimizer, 1, progress=False)


def test_a_plain_optimizer_that_leaves_the_mobilities_out_is_warned_about():
    descend = lambda net, optimizer: nf.gradient_descent(net, DATA, optimizer, 1, time_per_step=0.1, progress=False)
    net = MLP(WIDTHS, key=KEY, parametrization="muP")
    with pytest.warns(UserWarning, match=r"`optimizer` does not follow .* muP .* `nf.nets.scale_by_parametrization"):
        descend(net, optax.sgd(0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        descend(MLP(WIDTHS, key=KEY), optax.sgd(0.1))
        inner = optax.chain(optax.clip(1.0), optax.chain(optax.sgd(0.1), nf.nets.scale_by_parametrization()))
        descend(net, inner)
        descend(net, optax.apply_if_finite(inner, 3))


def test_weight_decay_before_the_mobilities_is_multiplied_and_after_them_it_is_not():
    """Without a gradient a step of decoupled decay is W ← (1 − ηmλ) W, and W ← (1 − ηλ) W as the mup package has it."""
    net = MLP(WIDTHS, key=KEY, parametrization=muP("adam"))
    zero, scale = jax.tree.map(jnp.zeros_like, net), nf.nets.scale_by_parametrization()
    before = optax.chain(optax.adamw(0.1, weight_decay=0.5), scale)
    after = optax.chain(optax.adam(0.1), scale, optax.add_decayed_weights(-0.1 * 0.5))
    factors = {"before": [1 - 0.1 * 0.5 * m for m in net.mobility], "after": [0.95] * len(net.weights)}
    for optimizer, expected in ((before, factors["before"]), (after, factors["after"])):
        updates, _ = optimizer.update(zero, optimizer.init(net), net)
        for W, new, factor in zip(net.weights, optax.apply_updates(net, updates).weights, expected, strict=True):
            np.testing.assert_allclose(new, factor * W, rtol=1e-14)
