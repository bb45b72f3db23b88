"""The figure of a coordinate check: every size in its panel, promised slopes, fitted powers in the legends."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.nets.promised_exponents import promised_exponents
from nfa_flow.width import CoordinateCheck, Scaling

WIDTHS = (64, 256, 1024)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def made(**changed):
    """A check of muP in which all sizes are exactly as promised but for those that are given."""
    n, scalings = np.array(WIDTHS, float)[:, None], {}
    for name, power in promised_exponents(nf.nets.muP(), 3).items():
        scalings[name] = Scaling(n**power * np.array([0.5, 2.0]), power, 0.01, power, True)
    return CoordinateCheck(nf.nets.muP(), WIDTHS, scalings | changed)


def test_every_panel_shows_its_sizes_and_what_was_promised():
    axes = nf.plot.coordinate_check(made()).axes
    assert [len(ax.lines) for ax in axes] == [4, 4, 6, 4]  # two or three layers, each with its dashed line
    output, promised = axes[3].lines[:2]
    np.testing.assert_allclose(output.get_ydata(), np.array(WIDTHS, float) ** -0.5)
    np.testing.assert_allclose(promised.get_ydata(), output.get_ydata())
    assert promised.get_linestyle() == "--"
    assert [text.get_text() for text in axes[3].get_legend().get_texts()] == [
        "at the start: −0.50 ± 0.01, holds",
        "change: +0.00 ± 0.01, holds",
    ]


def test_all_panels_span_as_many_decades():
    steep = Scaling(np.array([[1.0], [1e3], [1e6]]), 3.0, 0.1, 0.0, False)
    spans = [np.ptp(np.log10(ax.get_ylim())) for ax in nf.plot.coordinate_check(made(output=steep)).axes]
    np.testing.assert_allclose(spans, spans[0])
    assert spans[0] > 6


def test_the_title_has_the_verdict():
    broken = Scaling(np.ones((3, 1)), 0.0, 0.0, -0.5, False)
    assert nf.plot.coordinate_check(made(output=broken)).get_suptitle().endswith(": broken")


def test_sizes_without_a_power_are_left_out():
    zero = Scaling(np.zeros((3, 1)), np.nan, np.nan, None, None)
    axes = nf.plot.coordinate_check(made(output=zero)).axes
    assert not np.isfinite(axes[3].lines[0].get_ydata()).any()
    nf.plot.coordinate_check(made(output=zero)).canvas.draw()


def test_a_panel_without_any_size_is_drawn_too():
    zero = {
        name: Scaling(np.zeros((3, 1)), np.nan, np.nan, None, None) for name in promised_exponents(nf.nets.muP(), 3)
    }
    nf.plot.coordinate_check(made(**zero)).canvas.draw()
