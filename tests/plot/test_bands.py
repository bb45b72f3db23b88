"""Figures of sweeps: which quantiles are drawn, over which runs, and what cannot be drawn."""

import io
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex

import nfa_flow as nf
from nfa_flow.plot.style import PALETTE, new_figure

TIMES = np.array([0.0, 1.0, 2.0, 4.0, 8.0])
DEPTHS = [2, 3, 4]


@pytest.fixture
def dataset():
    """3 depths × 8 seeds, of which one failed half way and one at once."""
    values = np.random.default_rng(0).uniform(0.5, 1.0, (3, 8, 5))
    values[1, 3, 3:] = np.nan
    alignment = values / 2
    alignment[2, 0] = np.nan
    return xarray.Dataset(
        {
            "loss": (("depth", "seed", "time"), values),
            "alignment": (("depth", "seed", "time"), alignment),
            "spectrum": (("depth", "seed", "time", "spectrum[1]"), np.zeros((3, 8, 5, 2))),
            "loss_at_end": (("depth", "seed"), values[..., -1]),
            "status": (("depth", "seed"), np.full((3, 8), "completed")),
        },
        {"depth": DEPTHS, "seed": range(8), "time": TIMES},
    )


@pytest.fixture
def two_more(dataset):
    """Three rates and two kinds besides."""
    rates = xarray.concat([dataset[["loss"]]] * 3, xarray.Variable("rate", [0.0, 1e-3, 0.1]))
    return xarray.concat([rates] * 2, xarray.Variable("kind", ["slow", "fast"])).transpose("depth", ...)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def medians(ax):
    return [line for line in ax.lines if line.get_linestyle() != ":"]


def heights(lines):
    return [np.asarray(line.get_ydata()) for line in lines]


def labels(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_the_median_and_the_band_are_quantiles_over_the_seeds(dataset):
    ax = nf.plot.bands(dataset.sel(depth=2), "loss", quantiles=(0.25, 0.75))
    low, median, high = np.quantile(dataset["loss"].sel(depth=2), (0.25, 0.5, 0.75), axis=0)
    (line,), (band,) = medians(ax), ax.collections
    np.testing.assert_array_equal(line.get_xdata(), TIMES[1:])
    np.testing.assert_array_equal(line.get_ydata(), median[1:])
    assert isinstance(band, PolyCollection)
    corners = {(float(x), float(y)) for x, y in np.asarray(band.get_paths()[0].vertices)}
    assert corners == {*zip(TIMES[1:], low[1:], strict=True), *zip(TIMES[1:], high[1:], strict=True)}
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert ax.get_xlabel() == "time $t$ (learning rate × step)"
    assert ax.get_ylabel() == "loss $\\mathcal{L}$"
    legend = ax.get_legend()
    assert legend is not None and legend.get_title().get_text() == "median and 25–75 % over seed"


def test_each_other_setting_has_a_color_and_says_how_many_runs_it_has(dataset):
    ax = nf.plot.bands(dataset, "loss")
    assert [line.get_color() for line in medians(ax)] == list(PALETTE[:3])
    assert labels(ax.get_legend()) == ["depth = 2 (n = 8)", "depth = 3 (n = 7–8 of 8)", "depth = 4 (n = 8)", "at $t=0$"]
    assert labels(nf.plot.bands(dataset, "alignment").get_legend())[2] == "depth = 4 (n = 7 of 8)"


def test_runs_that_are_not_defined_are_left_out_of_the_quantiles(dataset):
    dataset["loss"][0, 5, 2] = np.inf
    first, second, _ = heights(medians(nf.plot.bands(dataset, "loss")))
    others = np.delete(dataset["loss"].values[1], 3, axis=0)
    np.testing.assert_array_equal(second[2:], np.median(others, axis=0)[3:])
    assert first[1] == np.median(np.delete(dataset["loss"].values[0, :, 2], 5))


def test_the_medians_at_time_zero_are_dotted_lines_in_their_colors(dataset):
    starts = [line for line in nf.plot.bands(dataset, "loss").lines if line.get_linestyle() == ":"]
    assert [values[0] for values in heights(starts)] == list(np.median(dataset["loss"][:, :, 0], axis=1))
    assert [line.get_color() for line in starts] == list(PALETTE[:3])
    later = nf.plot.bands(dataset.isel(time=slice(1, None)), "loss")
    assert len(later.lines) == 3 and "at $t=0$" not in labels(later.get_legend())


def test_a_second_dimension_has_line_styles_and_the_hue_can_be_chosen(two_more):
    ax = nf.plot.bands(two_more.sel(kind="slow"), "loss", hue="rate")
    assert [line.get_color() for line in medians(ax)] == list(PALETTE[:3]) * 3
    assert [line.get_linestyle() for line in medians(ax)] == ["-"] * 3 + ["--"] * 3 + ["-."] * 3
    colors = ["rate = 0 (n = 7–8 of 8)", "rate = 0.001 (n = 7–8 of 8)", "rate = 0.1 (n = 7–8 of 8)"]
    assert labels(ax.get_legend()) == [*colors, "depth = 2", "depth = 3", "depth = 4", "at $t=0$"]


def test_bands_can_be_over_another_dimension(dataset):
    ax = nf.plot.bands(dataset, "loss", over="depth")
    assert labels(ax.get_legend())[3:5] == ["seed = 3 (n = 2–3 of 3)", "seed = 4 (n = 3)"]
    ninth = dataset.isel(seed=[0]).assign_coords(seed=[8])
    ax = nf.plot.bands(xarray.concat([dataset, ninth], "seed"), "loss", over="depth")
    colors = {to_hex(line.get_color()) for line in medians(ax)}
    assert len(colors) == 9 > len(PALETTE)


def test_a_setting_with_a_single_value_needs_no_color(dataset):
    ax = nf.plot.bands(dataset.isel(depth=[0]), "loss")
    assert labels(ax.get_legend()) == ["n = 8", "at $t=0$"]


def test_times_may_differ_between_colors_but_not_within_a_band(dataset):
    times = np.broadcast_to(TIMES, (3, 8, 5)) * np.array([1.0, 2.0, 3.0])[:, None, None]
    times = np.where(np.isnan(dataset["loss"]), np.nan, times)
    own = dataset.drop_vars("time").assign(times=(("depth", "seed", "time"), times))
    lines = medians(nf.plot.bands(own, "loss"))
    np.testing.assert_array_equal(lines[1].get_xdata(), 2 * TIMES[1:])
    own["times"][2, 4] += 0.1
    with pytest.raises(ValueError, match="`over` must be a dimension along which all runs were observed at the same"):
        nf.plot.bands(own, "loss")
    with pytest.raises(ValueError, match="`dataset` must be one of a sweep, with `time` as a coordinate"):
        nf.plot.bands(own.drop_vars("times"), "loss")


def test_time_that_counts_steps_says_so(dataset):
    """Only the time of optimizers does, and only where it is their steps."""
    assert "learning rate" in nf.plot.bands(dataset.assign(step=dataset.time), "loss").get_xlabel()
    descent = dataset.isel(depth=0, seed=[0]).assign_attrs(batch="full")
    label = lambda steps: nf.plot.bands(descent.assign(step=("time", steps)), "loss").get_xlabel()
    assert label(TIMES) == "time $t$ (steps of an optimizer)"
    assert "learning rate" in label(10 * TIMES)


def test_values_over_two_decades_have_a_logarithmic_axis(dataset):
    assert nf.plot.bands(dataset.assign(decaying=dataset["loss"] ** 20), "decaying").get_yscale() == "log"


def test_an_observable_that_is_nowhere_a_number_says_so_without_warnings(dataset):
    with warnings.catch_warnings(action="error"):
        ax = nf.plot.bands(dataset.assign(undefined=np.nan * dataset["loss"]), "undefined")
        ax.figure.savefig(io.BytesIO())
    assert [text.get_text() for text in ax.texts] == ["undefined"]
    assert labels(ax.get_legend())[0] == "depth = 2 (n = 0 of 8)"


def test_axes_and_label_of_ones_own(dataset):
    ax = new_figure(2)[1][1]
    assert nf.plot.bands(dataset, "loss", ax=ax, label="training loss") is ax
    assert ax.get_ylabel() == "training loss"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "nothing"}, r"`name` .* this dataset, \['loss', 'alignment'\], but was 'nothing'"),
        ({"name": "spectrum"}, "`name` .*, but was 'spectrum'"),
        ({"name": "loss_at_end"}, "`name` .*, but was 'loss_at_end'"),
        ({"over": "width"}, r"`over` must be a dimension of `loss`, \['depth', 'seed'\], but was 'width'"),
        ({"hue": "seed"}, r"`hue` must be another dimension of `loss`, \['depth'\], but was 'seed'"),
        ({"quantiles": (0.9, 0.1)}, r"`quantiles` must be two numbers with 0 ≤ low < high ≤ 1, but was \(0.9, 0.1\)"),
    ],
)
def test_what_is_not_there_is_named(arguments, message, dataset):
    with pytest.raises(ValueError, match=message):
        nf.plot.bands(dataset, **{"name": "loss", **arguments})


def test_more_dimensions_than_can_be_told_apart_ask_for_a_selection(two_more):
    with pytest.raises(ValueError, match=r"`dataset` .*`dataset.sel\(rate=…\)`.*depth of 3, kind of 2, rate of 3"):
        nf.plot.bands(two_more, "loss")


def test_an_overview_has_a_panel_for_each_observable_and_one_legend(dataset, tmp_path):
    before = dict(plt.rcParams)
    figure = nf.plot.sweep_overview(dataset, ["loss", "alignment"])
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss $\\mathcal{L}$", "alignment of NFM and AGOP$^{\\alpha}$"]
    (legend,) = figure.legends
    assert labels(legend)[1:] == ["depth = 3 (n = 7–8 of 8)", "depth = 4 (n = 7–8 of 8)", "at $t=0$"]
    assert not any(ax.get_legend() for ax in figure.axes)
    figure.savefig(tmp_path / "figure.png")
    assert dict(plt.rcParams) == before
