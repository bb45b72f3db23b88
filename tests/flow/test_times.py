import numpy as np
import pytest

import nfa_flow as nf


def test_log_times_have_exact_ends_and_equal_ratios():
    times = nf.log_times(1e-2, 1e4, 13)
    assert times[0] == 1e-2 and times[-1] == 1e4 and len(times) == 13
    np.testing.assert_allclose(times[1:] / times[:-1], 10**0.5, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0, 5), "`first` must be a positive number, but was 0"),
        ((2.0, 1.0, 5), "`last` must be after `first` = 2, but was 1"),
        ((1.0, float("inf"), 5), "`last` must be a positive number"),
        ((1.0, 2.0, 1), "`count` must be a whole number of at least 2, but was 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        nf.log_times(*arguments)
