"""How runs are counted: those that fit, those that are undefined, and the interval of a fraction."""

import numpy as np
import pytest
import scipy.stats
import xarray
from hypothesis import given
from hypothesis import strategies as st

from nfa_flow.studies.intervals import wilson
from nfa_flow.studies.nfa.random_relu import FIT, RANDOM_RELU


@given(st.integers(1, 200), st.integers(0, 200))
def test_the_interval_of_a_fraction_is_wilsons(total, count):
    count = min(count, total)
    interval = scipy.stats.binomtest(count, total).proportion_ci(method="wilson")
    # z = 1.96 in place of the quantile 1.95996….
    assert wilson(count, total) == pytest.approx((interval.low, interval.high), abs=1e-4)


def test_the_interval_of_nothing_is_undefined():
    assert np.isnan(wilson(0, 0)).all()


def made(losses, errors, exponents, status):
    """A dataset of one problem, trained in one way from one scale."""
    dims, at_end = ("problem", "training", "scale", "seed"), lambda values: np.reshape(values, (1, 1, 1, -1))
    cosines = np.sqrt(1 - np.asarray(errors) ** 2)
    ends = {
        "loss": losses,
        "best.cosine": cosines,
        "best.relative_error": errors,
        "best.exponent": exponents,
    }
    variables = {f"{name}_at_end": (dims, at_end(values)) for name, values in ends.items()}
    variables |= {name: ((*dims, "time"), at_end(values)[..., None]) for name, values in ends.items()}
    coords = {"problem": ["base"], "training": ["GD"], "scale": [0.3], "seed": np.arange(len(losses))}
    return xarray.Dataset(variables | {"status": (dims, at_end(status))}, coords)


MIXED = made(
    losses=[FIT, FIT / 2, FIT / 2, 1.0, FIT, np.nan],
    errors=[0.2, 0.05, np.nan, 0.9, 0.4, np.nan],
    exponents=[0.5, np.nan, np.nan, 0.5, 1.0, np.nan],
    status=["stopped", "completed", "completed", "completed", "stopped", "diverged"],
)


def test_only_runs_that_fit_are_judged_and_one_that_violates_the_ansatz_is_enough():
    claims = RANDOM_RELU.judge(MIXED)
    assert claims[0].holds and claims[0].measured == "2 of 4 that fit"
    assert claims[-1].measured == (
        "4 of 6 fit, 1 undefined, 1 with any α, 1 failed; 0.2 (0.08–0.36); > 0.1: 67% (21%–94%); > 0.3: 33% (6%–79%)"
    )
    kept = made([FIT] * 3, [0.01, 0.02, 0.05], [0.5] * 3, ["completed"] * 3)
    assert not RANDOM_RELU.judge(kept)[0].holds


def test_the_interval_holds_its_fraction_also_at_the_ends():
    for total in range(1, 300):
        for count in (0, total):
            low, high = wilson(count, total)
            assert low <= count / total <= high
