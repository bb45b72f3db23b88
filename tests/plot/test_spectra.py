"""The ansatz as a straight line in the eigenbasis of AGOP."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from oracles import balanced_net

import nfa_flow as nf

X = jnp.eye(6)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_a_balanced_linear_network_lies_on_a_line_of_slope_one_over_its_depth():
    spectrum = nf.measure.spectrum(balanced_net((6, 7, 7, 5)), X)
    ax = nf.plot.spectrum(spectrum, label="balanced")
    (line,), (points,) = ax.lines, ax.collections
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert len(points.get_offsets()) == 5  # of six directions, one has no eigenvalue
    x, y = np.log(np.asarray(line.get_data()))
    np.testing.assert_allclose(np.diff(y), np.diff(x) / 3, rtol=1e-9)
    assert points.get_label() == "balanced, $\\hat\\alpha = 0.333$"


def test_spectra_share_axes_in_colors_of_their_own():
    spectrum = nf.measure.spectrum(nf.nets.MLP((6, 7, 5), key=jax.random.key(0), activation="tanh"), X)
    ax = nf.plot.spectrum(spectrum)
    assert nf.plot.spectrum(spectrum, ax=ax) is ax
    first, second = ax.collections
    assert not np.array_equal(first.get_facecolor(), second.get_facecolor())


def test_one_direction_has_no_slope():
    ax = nf.plot.spectrum(nf.measure.spectrum(balanced_net((6, 7, 1)), X))
    assert not ax.lines and len(ax.collections[0].get_offsets()) == 1


@pytest.mark.parametrize(
    ("spectrum", "message"),
    [
        (
            nf.measure.Spectrum(*jnp.ones((3, 2, 4))),
            r"`spectrum` must be that of one network, but was of shape \(2, 4\)",
        ),
        (nf.measure.Spectrum(jnp.zeros(4), jnp.zeros(4), jnp.full(4, jnp.nan)), "above rounding, but was without any"),
    ],
)
def test_a_spectrum_that_cannot_be_drawn_is_refused(spectrum, message):
    with pytest.raises(ValueError, match=message):
        nf.plot.spectrum(spectrum)
