"""Rates of decay, horizons, and what the experiment says of made-up runs that obey the laws or break them."""

import numpy as np
import pytest
import xarray

from nfa_flow.studies.nfa.weight_decay import _DECAYS, COLLAPSE, INITS, WEIGHT_DECAY, decay_rate, horizon

FRACTIONS = np.concatenate([[0.0], np.geomspace(1e-3, 1, 40)])


def made(*, of_imbalance=1.0, of_error=1.0, start=0.5):
    """Two seeds of each decay rate whose imbalance and error shrink at these multiples of 2λ."""
    shape = (2, len(INITS), len(_DECAYS), 2)
    decays = np.broadcast_to(np.array(_DECAYS)[:, None], shape)
    times = np.vectorize(horizon)(decays)[..., None] * FRACTIONS
    phase = 2 * decays[..., None] * times
    error = np.where(
        decays[..., None] == COLLAPSE, np.where(phase < 30, start, np.nan), start * np.exp(-of_error * phase)
    )
    dims = ("depth", "init", "weight_decay", "seed")
    variables = {
        "times": ((*dims, "time"), times),
        "imbalance": ((*dims, "time"), 3 * np.exp(-of_imbalance * phase)),
        "relative_error": ((*dims, "time"), error),
        "relative_error_at_end": (dims, error[..., -1]),
        "status": (dims, np.full(shape, "completed")),
    }
    coords = {"depth": [2, 3], "init": list(INITS), "weight_decay": list(_DECAYS), "seed": [0, 1]}
    return xarray.Dataset(variables, coords)


def verdicts(dataset):
    return [claim.holds for claim in WEIGHT_DECAY.judge(dataset)]


def test_the_rate_of_an_exponential_is_found_where_it_is_to_be_used():
    times = xarray.DataArray(np.linspace(0, 5, 11), dims="time")
    values = 7 * np.exp(-0.3 * times) + xarray.where(times > 4, 1, 0)
    assert decay_rate(values, times, times <= 4) == pytest.approx(0.3, rel=1e-12)
    assert decay_rate(values, times, times <= 5) < 0.3
    assert np.isnan(decay_rate(values, times, times < 0.5))  # one time only


def test_claims_hold_of_runs_that_obey_the_laws():
    assert verdicts(made()) == [True] * 5


def test_each_claim_fails_with_its_law():
    assert verdicts(made(of_imbalance=1.02))[0] is False
    assert verdicts(made(of_error=0.5))[2] is False
    kept = made()
    kept["imbalance"] = kept["imbalance"] * (1 + 1e-5 * kept["times"])
    assert verdicts(kept)[1] is False
    healed = made()
    healed["relative_error_at_end"] = healed["relative_error_at_end"].where(healed["weight_decay"] > 0, 1e-9)
    assert verdicts(healed)[3] is False
    defined = made()
    defined["relative_error_at_end"] = defined["relative_error_at_end"].fillna(0.1)
    assert verdicts(defined)[4] is False


def test_a_run_that_failed_leaves_the_claims_about_it_undecided():
    dataset = made()
    dataset["status"][0, 0, 1, 0] = "max_steps"
    dataset["imbalance"][0, 0, 1, 0, 5:] = 1e3
    claims = WEIGHT_DECAY.judge(dataset)
    assert [claim.holds for claim in claims] == [None, True, None, None, True]
    assert claims[0].measured.startswith("off by") and claims[0].runs == "80, 1 failed"
