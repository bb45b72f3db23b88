"""What runs end with against a setting: which quantiles are drawn, where along the axis, and what cannot be drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray

import nfa_flow as nf

DEPTHS, RATES = [2, 3, 4], [0.0, 1e-3, 0.1]


@pytest.fixture
def dataset():
    """3 depths × 3 rates × 9 seeds; all runs of one setting, and one run of another, are undefined."""
    values = np.random.default_rng(0).uniform(0.5, 1.0, (3, 3, 9))
    values[1, 2] = values[0, 0, 4] = np.nan
    dims = ["depth", "rate", "seed"]
    return xarray.Dataset(
        {
            "error": ([*dims, "time"], np.zeros((3, 3, 9, 2))),
            "error_at_end": (dims, values),
            "steps": (dims, np.arange(81).reshape(3, 3, 9)),
            "status": (dims, np.full((3, 3, 9), "completed")),
        },
        {"depth": DEPTHS, "rate": RATES, "seed": range(9)},
    )


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def drawn(ax):
    """Places, medians and ends of the bars of each line."""
    found = []
    for container in ax.containers:
        line, _, (bars,) = container.lines
        ends = [segment[:, 1] if len(segment) else None for segment in bars.get_segments()]
        found.append((line.get_xdata(), line.get_ydata(), ends))
    return found


def test_medians_and_quantiles_over_the_defined_seeds_are_drawn(dataset):
    ax = nf.plot.at_end(dataset, "error", against="depth", hue="rate")
    values = dataset["error_at_end"].transpose("rate", "depth", "seed").values
    for (_, medians, ends), expected in zip(drawn(ax), values, strict=True):
        for i, seeds in enumerate(expected):
            finite = seeds[np.isfinite(seeds)]
            if finite.size:
                low, median, high = np.quantile(finite, (0.1, 0.5, 0.9))
                np.testing.assert_allclose([medians[i], *ends[i]], [median, low, high])
            else:
                assert np.isnan(medians[i])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2", "3", "4"]
    assert [text for text in ax.get_legend_handles_labels()[1]] == ["0", "0.001", "0.1"]


def test_magnitudes_among_which_is_zero_stand_side_by_side_and_others_on_a_logarithmic_axis(dataset):
    ax = nf.plot.at_end(dataset.sel(depth=2), "steps", against="rate")
    assert ax.get_xscale() == "linear" and [text.get_text() for text in ax.get_xticklabels()] == ["0", "0.001", "0.1"]
    ax = nf.plot.at_end(dataset.sel(depth=2, rate=[1e-3, 0.1]), "steps", against="rate")
    assert ax.get_xscale() == "log"
    np.testing.assert_array_equal(drawn(ax)[0][0], [1e-3, 0.1])


def test_words_stand_side_by_side_and_colors_do_not_cover_each_other(dataset):
    words = dataset.assign_coords(rate=["slow", "fast", "none"])
    places = np.array([line[0] for line in drawn(nf.plot.at_end(words, "error", against="rate", hue="depth"))])
    assert len(np.unique(places.ravel())) == 9 and np.abs(places - np.arange(3)).max() < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "loss", "against": "depth", "hue": "rate"}, "`name` must be a number that each run has"),
        ({"name": "status", "against": "depth", "hue": "rate"}, "`name` must be a number that each run has"),
        ({"name": "error", "against": "width", "hue": "rate"}, "`against` must be a dimension of `error`"),
        ({"name": "error", "against": "depth", "hue": "scale"}, "`hue` must be a dimension of `error`"),
        ({"name": "error", "against": "depth", "hue": "rate", "over": "key"}, "`over` must be a dimension"),
        ({"name": "error", "against": "depth"}, "`dataset` must be without further dimensions"),
    ],
)
def test_what_cannot_be_drawn_is_told(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        nf.plot.at_end(dataset, **arguments)


@pytest.mark.parametrize(("arguments", "named"), [({"hue": "depth"}, "hue"), ({"over": "depth"}, "over")])
def test_one_dimension_cannot_be_shown_in_two_ways(arguments, named, dataset):
    with pytest.raises(ValueError, match=f"`{named}` must be another dimension"):
        nf.plot.at_end(dataset.isel(rate=0), "error", **{"against": "depth"} | arguments)


def test_what_has_no_value_takes_no_place_beside_others(dataset):
    """The line of the only depth that has values stands at its labels."""
    words = dataset.assign_coords(rate=["slow", "fast", "none"])
    words["error_at_end"] = words["error_at_end"].where(words["depth"] == 4)
    places = [line[0] for line in drawn(nf.plot.at_end(words, "error", against="rate", hue="depth"))]
    np.testing.assert_allclose(places[DEPTHS.index(4)], [0, 1, 2], atol=1e-15)
