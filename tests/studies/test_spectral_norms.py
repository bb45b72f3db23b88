"""Norms against width: one program is every parametrization, sizes have closed forms, claims fail with their laws."""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
import xarray

import nfa_flow as nf
from nfa_flow.nets.promised_exponents import promised_exponents
from nfa_flow.studies.schemes import network
from nfa_flow.studies.slopes import WITHIN, verdict
from nfa_flow.studies.spectral.common import fans, optimizer, shape_of, task
from nfa_flow.studies.spectral.layers import LayerNorms
from nfa_flow.studies.spectral.norms import (
    CASES,
    NORMS,
    SCHEMES,
    STEPS,
    edge,
    powers_at_start,
    powers_of_step,
    steps_of,
)
from nfa_flow.studies.spectral.updates import NAMES, UPDATES, turned
from nfa_flow.width import WidthExponent

WIDTH = 16
PLACES = {name: place for place, name in enumerate(CASES)}


@pytest.fixture(scope="module")
def gradient():
    return network(jax.random.key(3), shape_of(WIDTH), "tanh", [nf.nets.NTP()], 0)[0]


def step_of(name, gradient):
    """The first update of a case for this gradient."""
    return first_step(optimizer(list(CASES.values()), WIDTH, PLACES[name]), gradient)


def first_step(method: Any, gradient: Any) -> tuple:
    return method.update(gradient, method.init(gradient), gradient)[0].weights


@pytest.mark.parametrize("name", ["GD, Spectral", "GD, muP", "GD, SP", "Adam, Spectral", "Adam, NTP"])
def test_a_case_starts_and_steps_as_its_parametrization_does(name, gradient):
    case = CASES[name]
    schemes = [each.scheme for each in CASES.values()]
    net, _ = network(jax.random.key(0), shape_of(WIDTH), "tanh", schemes, jnp.asarray(PLACES[name]))
    own = nf.nets.MLP(shape_of(WIDTH), key=jax.random.key(0), activation="tanh", parametrization=case.scheme)
    for mine, its in zip(net.weights, own.weights, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-15)
    base = optax.sgd(case.rate) if case.update == "GD" else optax.adam(case.rate)
    reference = optax.chain(base, nf.nets.scale_by_parametrization())
    expected = first_step(reference, own.with_weights(gradient.weights))
    for mine, its in zip(step_of(name, gradient), expected, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-12)


def test_muon_misses_the_condition_by_the_factor_of_a_narrowing_layer(gradient):
    plain, rescaled = step_of("Muon", gradient), step_of("Muon, rescaled", gradient)
    for (fan_out, fan_in), W, R in zip(fans(WIDTH), plain, rescaled, strict=True):
        np.testing.assert_allclose(R, min(1, fan_out / fan_in) ** 0.5 * W, rtol=1e-12)
        # Newton–Schulz iterations leave singular values within .68 and 1.21.
        size = np.linalg.norm(W, 2) / (CASES["Muon"].rate * max(1, fan_out / fan_in) ** 0.5)
        assert 0.68 <= size <= 1.21


@pytest.mark.parametrize("name", [name for name in SCHEMES if STEPS in steps_of(CASES[name])])
def test_stable_schemes_have_the_powers_that_the_coordinate_check_promises(name):
    promised = promised_exponents(CASES[name].scheme, 3)
    assert powers_of_step(CASES[name]) == pytest.approx([promised[f"update {l}"] for l in (1, 2, 3)])


def test_only_spectral_mup_and_rescaled_updates_keep_to_the_condition():
    flat = {name for name in CASES if not any(powers_of_step(CASES[name])) and not any(powers_at_start(CASES[name]))}
    assert flat == {
        *(f"{update}, {name}" for update in ("GD", "Adam") for name in ("Spectral", "muP")),
        "normalized",
        "Muon, rescaled",
    }


def test_the_task_is_standardized_digits():
    data = task()
    assert data.x.shape == (64, 16) and data.y.shape == (64, 10)
    np.testing.assert_allclose(np.unique(data.y), [-1 / 3, 3], rtol=1e-12)


def test_an_update_of_rank_one_is_aligned_with_its_feature():
    net, _ = network(jax.random.key(0), shape_of(WIDTH), "tanh", [nf.nets.Spectral()], 0)
    x, direction = jax.random.normal(jax.random.key(1), (1, 16)), jax.random.normal(jax.random.key(2), (WIDTH,))
    h = net.to_layer(2, x[0])
    W_1, W_2, W_3 = net.weights
    moved = net.with_weights([W_1, W_2 + 1e-3 * jnp.outer(direction, h), W_3])
    sizes = LayerNorms(net)(moved, nf.Dataset(x, jnp.zeros((1, 10))))
    norm = 1e-3 * np.linalg.norm(direction) * np.linalg.norm(h)
    # Differences of weights of size one round at 1e-16, relative to the change at 1e-13.
    assert sizes["update"][1] == pytest.approx(norm, rel=1e-9)
    assert sizes["alignment"][1] == pytest.approx(1, rel=1e-9)
    assert sizes["stable_rank"][1] == pytest.approx(1, rel=1e-9)
    assert sizes["moved"][1] == pytest.approx(norm / np.linalg.norm(W_2), rel=1e-9)
    assert sizes["weight"][0] == pytest.approx(np.linalg.norm(W_1, 2), rel=1e-12)
    assert np.isnan(sizes["alignment"][0]) and np.isnan(sizes["stable_rank"][2])
    assert sizes["change"][0] == 0 and sizes["change"][1] > 0


def test_a_matrix_turned_at_random_has_the_alignment_of_the_mean_over_directions():
    W = np.random.default_rng(0).normal(size=(8, 8))
    squares = np.sum(W**2, axis=0) / np.linalg.norm(W, 2) ** 2  # ‖We_i‖²/‖W‖² over a basis
    rank = xarray.DataArray([[np.linalg.norm(W) ** 2 / np.linalg.norm(W, 2) ** 2]], {"width": [8]}, ("width", "seed"))
    np.testing.assert_allclose(turned(rank), np.sqrt(squares.mean()), rtol=1e-12)


def test_a_verdict_needs_two_standard_errors():
    fits = lambda gap, error: [WidthExponent(0.0, 0.01), WidthExponent(1 + gap, error)]
    assert verdict(fits(0.1, 0.05), [0.0, 1.0]) is True
    assert verdict(fits(0.2, 0.05), [0.0, 1.0]) is None
    assert verdict(fits(0.4, 0.05), [0.0, 1.0]) is False
    assert verdict(fits(np.nan, np.nan), [0.0, 1.0]) is False


def made(names, *, tilt=0.0, start=1.0):
    """Sizes that are the promised powers of the width, times a little noise, and `tilt` more in the updates."""
    widths, seeds, times = np.array([64, 128, 256]), np.arange(8), [0.0, 1.0, float(STEPS)]
    dims, noise = ("width", "case", "seed", "time"), 1 + 0.01 * np.cos(seeds)
    update = np.array([[powers_of_step(CASES[name]) for name in names] for _ in widths]) + tilt
    n = widths[:, None, None].astype(float)
    spread = lambda values: np.broadcast_to(values[:, :, None, None, :], (3, len(names), 8, 3, 3)).copy()
    edges = np.array([[[edge(CASES[name], int(w), l) for l in range(3)] for name in names] for w in widths])
    sizes = {
        "update": spread(0.05 * (n / 64) ** update),
        "weight": spread(start * edges),
        "moved": spread((n / 64) ** np.full(update.shape, -0.5)),
        "alignment": spread(np.full(update.shape, 0.7)),
        "stable_rank": spread(np.full(update.shape, 3.0)),
        "change": spread(np.full(update.shape, 0.05)),
    }
    sizes = {name: values * noise[None, None, :, None, None] for name, values in sizes.items()}
    if "normalized" in names:
        sizes["update"][:, names.index("normalized")] = CASES["normalized"].rate * (n / 64)[:, :, None] ** tilt
    variables = {f"layers.{name}": ((*dims, f"layers.{name}[1]"), values) for name, values in sizes.items()}
    loss = np.broadcast_to(np.array([5.0, 4.0, 2.0]), (3, len(names), 8, 3))
    variables |= {"loss": (dims, loss), "loss_at_end": (dims[:3], loss[..., -1])}
    variables["status"] = (dims[:3], np.full(loss.shape[:3], "completed"))
    return xarray.Dataset(variables, {"width": widths, "case": names, "seed": seeds, "time": times})


def test_the_claims_on_parametrizations_fail_with_their_laws():
    verdicts = lambda dataset: [claim.holds for claim in NORMS.judge(dataset)]
    held = verdicts(made(SCHEMES))
    told_twice = sum(STEPS in steps_of(CASES[name]) for name in SCHEMES)
    assert held == [True] * (1 + len(SCHEMES) + told_twice)
    assert verdicts(made(SCHEMES, tilt=0.5)) == [True] + [False] * (len(held) - 1)
    assert verdicts(made(SCHEMES, start=1.2)) == [False] + [True] * (len(held) - 1)


def test_the_claims_say_which_parametrizations_break_the_condition():
    claims = {claim.statement.split(":")[0]: claim for claim in NORMS.judge(made(SCHEMES))}
    assert claims["GD, Spectral, 1 step"].expected == f"0, 0, 0: as the condition requires, {WITHIN}"
    assert claims["GD, NTP, 20 steps"].expected == f"−0.5, −0.5, 0: not the condition, {WITHIN}"
    assert claims["Adam, SP, one rate, 1 step"].expected == f"0, +1, +1: not the condition, {WITHIN}"
    assert claims["GD, SP, 1 step"].measured == "−1.50 ± 0.00, −0.50 ± 0.00, +0.00 ± 0.00"


def test_the_claims_on_updates_fail_with_their_laws():
    verdicts = lambda dataset: [claim.holds for claim in UPDATES.judge(dataset)]
    powers = 2 * len(NAMES)
    assert verdicts(made(NAMES)) == [True] + [True] * powers + [True] * 3 + [None] * len(NAMES)
    assert verdicts(made(NAMES, tilt=0.5)) == [False] + [False] * powers + [True] * 3 + [None] * len(NAMES)


def test_the_report_on_updates_has_the_baseline():
    report = UPDATES.judge(made(NAMES))[-1]
    assert report.statement == "Muon, rescaled, 1 step, n = 256, hidden layer"
    assert "stable rank 3 (3–3) of 256; alignment 0.7 (0.69–0.71), turned at random 0.11 (0.11–0.11)" in report.measured


@pytest.mark.parametrize(("experiment", "names"), [(NORMS, SCHEMES), (UPDATES, NAMES)])
def test_the_figures_are_drawn(experiment, names, tmp_path):
    sheet = experiment.figure(made(names))
    sheet.savefig(tmp_path / "figure.png")
    labels = {text.get_text() for text in sheet.legends[0].get_texts()}
    plt.close(sheet)
    assert "theory" in labels
    assert {"Spectral", "muP", "NTP", "SP", "SP, one rate"} <= labels if experiment is NORMS else set(names) <= labels
