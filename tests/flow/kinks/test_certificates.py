"""A flow across kinks proves its own accuracy: two layers of relu with biases, weight decay and mobilities."""

import equinox as eqx
import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles import relative, with_random_biases

import nfa_flow as nf

SEEDS, TOLERANCES = (0, 4, 5), (1e-4, 1e-6, 1e-8)


@pytest.fixture(scope="module", params=SEEDS)
def runs(request):
    """The runs with slides of one problem at all tolerances."""
    rng, found = np.random.default_rng(request.param), {}
    data = nf.Dataset(rng.normal(size=(16, 3)), rng.normal(size=(16, 1)))
    net = nf.nets.MLP([3, 4, 4, 1], key=jax.random.key(request.param), activation="relu", bias=True)
    options = {"weight_decay": 0.02, "mobility": [1.5] * 3, "save_at": [0.0, 2.0, 6.0], "progress": False}
    for rtol in TOLERANCES:
        found[rtol] = nf.gradient_flow(
            with_random_biases(net, request.param), data, 6.0, rtol=rtol, certify=True, **options
        )
        assert found[rtol].stats["crossings"] >= 6 and found[rtol].stats["slides"] >= 2
    return found


def theta(run):
    return np.asarray(ravel_pytree(eqx.filter(run.net, eqx.is_inexact_array))[0])


def test_errors_are_within_ten_times_the_tolerance(runs):
    for rtol, run in runs.items():
        for name in ("parameter_error", "loss_identity_error"):
            assert np.all(run.observed[name] < 10 * rtol)


def test_errors_fall_with_the_tolerance(runs):
    """As they do on a smooth flow, though there are events in the way."""
    first, second, last = (runs[rtol] for rtol in TOLERANCES)
    coarse, fine = (float(run.observed["parameter_error"][-1]) for run in (first, last))
    assert np.log10(coarse / fine) >= 0.7 * np.log10(TOLERANCES[0] / TOLERANCES[-1])
    # The estimates are the distances from the finest run.
    for run in (first, second):
        true = relative(theta(run) - theta(last), theta(last))
        assert 0.5 * true < run.observed["parameter_error"][-1] < 2 * true


def test_where_events_are_few_the_cost_grows_as_that_of_a_pair_of_order_5(runs):
    _, first, last = (runs[rtol] for rtol in TOLERANCES)
    assert last.stats["gradient_evaluations"] < 100 ** (1 / 5) * first.stats["gradient_evaluations"]


def test_the_balance_law_holds_neuron_by_neuron_also_with_decay(runs):
    assert np.all(runs[1e-8].observed["balance_error"] < 1e-8)


def test_the_shares_of_slides_are_between_zero_and_one(runs):
    for run in runs.values():
        assert -1e-7 <= run.stats["lowest_share"] <= run.stats["highest_share"] <= 1 + 1e-7


def test_slides_stay_on_their_surfaces(runs):
    for run in runs.values():
        assert 0 < run.stats["largest_h"] < 1e-10
