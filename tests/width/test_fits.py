"""Powers of the width and limits at infinite width, from made-up networks whose law is known."""

import numpy as np
import pytest

from nfa_flow.width import width_exponent, width_limit

WIDTHS = [64, 128, 256, 512]
N = np.array(WIDTHS, float)[:, None]


def test_a_power_is_found_exactly():
    fit = width_exponent(WIDTHS, 3 * N**-0.5 * np.ones(5))
    assert fit.exponent == pytest.approx(-0.5, abs=1e-13) and fit.error < 1e-13


def test_a_limit_is_found_exactly():
    fit = width_limit(WIDTHS, 2 - 7 / N + np.array([-1, 0, 1]))  # means are without error
    assert fit.limit == pytest.approx(2, abs=1e-12) and fit.slope == pytest.approx(-7, abs=1e-9)
    assert fit.misfit < 1e-20


@pytest.mark.parametrize("spread", [0.1, 0.5])
def test_standard_errors_are_those_of_repeated_fits(spread):
    """Over many repetitions the estimate is off by its standard error, to the precision of 400 of them and 50 seeds."""
    rng, trials = np.random.default_rng(0), 400
    noise = lambda: np.exp(spread * rng.normal(size=(len(WIDTHS), 50)))
    fits = [width_exponent(WIDTHS, N**0.7 * noise()) for _ in range(trials)]
    off = np.array([fit.exponent - 0.7 for fit in fits])
    spread_alone = spread / np.sqrt(50) / np.sqrt(np.sum((np.log(N) - np.log(N).mean()) ** 2))
    assert off.std() == pytest.approx(spread_alone, rel=4 / np.sqrt(2 * trials))
    # The larger of two estimates of one variance is above it, and the misfit of four points has two degrees of freedom.
    assert 1 < np.mean([fit.error**2 for fit in fits]) / spread_alone**2 < 2
    limits = [width_limit(WIDTHS, 1 + 5 / N + spread * rng.normal(size=(len(WIDTHS), 50))) for _ in range(trials)]
    pulls = np.array([(fit.limit - 1) / fit.error for fit in limits])
    assert abs(pulls.mean()) < 4 / np.sqrt(trials) and 0.7 < pulls.std() < 1 + 4 / np.sqrt(2 * trials)


def test_points_off_the_line_enlarge_the_error():
    bent = N**0.7 * np.exp(0.3 * (np.log(N) - np.log(N).mean()) ** 2) * np.ones(4)
    assert width_exponent(WIDTHS, bent).error > 0.05
    curved = 1 + 5 / N + 1e4 / N**2 + 1e-3 * np.array([-1, 0, 1])
    fit = width_limit(WIDTHS, curved)
    assert fit.misfit > 100 and abs(fit.limit - 1) < 4 * fit.error


def test_one_network_per_width_has_the_error_of_the_residuals():
    fit = width_exponent(WIDTHS, N * np.array([[1.1], [1.0], [0.9], [1.05]]))
    assert fit.error > 0


@pytest.mark.parametrize("fit", [width_exponent, width_limit])
@pytest.mark.parametrize(
    ("widths", "values", "message"),
    [
        (
            [64, 128],
            np.ones((2, 3)),
            r"`widths` must be at least three increasing widths, for a fit, but was \[64, 128\]",
        ),
        ([64, 256, 128], np.ones((3, 3)), "`widths` must be at least three increasing widths"),
        ([64, 64, 128], np.ones((3, 3)), "`widths` must be at least three increasing widths"),
        ([0, 64, 128], np.ones((3, 3)), "`widths` must be a whole number of at least 1, but was 0"),
        ([1, 2, 3], np.ones((4, 3)), r"`values` must be an array of shape \(3 widths, networks\), .* \(4, 3\)"),
        ([1, 2, 3], np.ones(3), "`values` must be an array of shape"),
        ([1, 2, 3], np.full((3, 2), np.nan), "`values` must be finite everywhere"),
    ],
)
def test_mistakes_are_named(fit, widths, values, message):
    with pytest.raises(ValueError, match=message):
        fit(widths, values)


def test_what_has_no_power_or_no_error_is_refused():
    with pytest.raises(ValueError, match="`values` must be positive, .* but was 0 at its smallest"):
        width_exponent([1, 2, 3], np.zeros((3, 2)))
    with pytest.raises(ValueError, match="`values` must be of at least two networks per width"):
        width_limit([1, 2, 3], np.ones((3, 1)))
    with pytest.raises(ValueError, match="`values` must be different between networks"):
        width_limit([1, 2, 3], np.ones((3, 2)))
