"""Axes, panels and kinds of claims, on made-up runs: what they select, draw and decide."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray

from nfa_flow.plot.style import GRAY
from nfa_flow.studies import axes
from nfa_flow.studies.claims import reported
from nfa_flow.studies.experiment import Experiment
from nfa_flow.studies.judgments import AtMost, Judged, PowerLaw, Reported, Tends, WidthPowers
from nfa_flow.studies.panels import AgainstWidth, AtEnd, Points, Slope, Through
from nfa_flow.studies.runs import chosen, untrained_apart, where_first
from nfa_flow.studies.slopes import slope

WIDTHS, KINDS, SEEDS = [16, 32, 64], ["plain", "other", "untrained"], 5


def made(power=1.0, spread=0.01):
    """Sizes that grow by a power of the width, through time, in two kinds; and untrained networks of size 7."""
    n = np.array(WIDTHS, float)[:, None, None]
    size = (n / 16) ** power * np.array([1.0, 2.0, np.nan])[:, None] * (1 + spread * np.cos(np.arange(SEEDS)))
    size[:, 2] = 7.0
    dims = ("width", "kind", "seed")
    through = size[..., None] * np.array([0.5, 0.9, 1.0])
    variables = {
        "size": ((*dims, "time"), through),
        "size_at_end": (dims, size),
        "status": (dims, np.full(size.shape, "completed")),
    }
    coords = {"width": WIDTHS, "kind": KINDS, "seed": np.arange(SEEDS), "time": [0.0, 1.0, 10.0]}
    return untrained_apart(xarray.Dataset(variables, coords), "kind", "untrained")


@pytest.fixture
def ax():
    yield plt.figure().add_subplot()
    plt.close("all")


def dashed(ax):
    return [line for line in ax.lines if line.get_linestyle() == "--" and line.get_color() == "black"]


def test_an_axis_has_its_values_by_size_and_words_by_their_labels():
    axis = axes.looped({"a": 1.5, "b": 2.5, "c": 3.5}, quick=["b", "c", "a"])
    assert axis.values == {
        "full": {"a": 1.5, "b": 2.5, "c": 3.5},
        "quick": {"b": 2.5, "c": 3.5, "a": 1.5},
        "tiny": {"b": 2.5, "c": 3.5},
    }
    both = {"x": axes.batched([1.0, 2.0, 3.0], tiny=[2.0]), "seed": axes.seeds(9), "twice": lambda x: 2 * x}
    assert [len(axes.grid(both, size)) for size in axes.SIZES] == [27, 24, 2]
    assert {axis.name: axis.kind for axis in axes.grid(both, "full").axes} == {"x": "batched", "seed": None}


def test_untrained_networks_are_set_apart():
    runs = made()
    assert list(runs["kind"].values) == ["plain", "other"]
    assert (runs["untrained.size_at_end"] == 7).all() and runs["untrained.size_at_end"].dims == ("width", "seed")


def test_runs_are_chosen_by_label_labels_or_mask():
    runs = made()
    assert chosen(runs, {"kind": "plain"}).sizes == {"width": 3, "seed": 5, "time": 3}
    assert chosen(runs, {"width": [16, 64], "kind": ["other"]})["status"].shape == (2, 1, 5)
    assert chosen(runs, {"width": lambda width: width > 16})["width"].values.tolist() == [32, 64]
    assert chosen(runs, {"kind": "third"}) is None and chosen(runs, {"width": lambda width: width > 64}) is None


def test_values_are_found_where_another_one_is_first_down_to_a_level():
    rows = [[4.0, 2.0, 0.0, 3.0], [4.0, 3.0, 2.0, 2.0], [1.0, 0.0, 0.0, 0.0], [4.0, 0.5, np.nan, np.nan]]
    left, time = xarray.DataArray(rows, dims=("seed", "time")), xarray.DataArray([0.0, 10.0, 20.0, 30.0], dims="time")
    np.testing.assert_allclose(where_first(left, 1.0, time), [15.0, np.nan, 0.0, 10 * 3 / 3.5], rtol=1e-12)


def test_a_claim_is_made_for_each_label_and_of_all_times():
    told = "{kind}, n = {first width} … {last width} ({every width}), {other}"
    found = AtMost("size", 5.0, "size ≤ {}", each="kind")(told, made())
    expected = [f"{kind}, n = 16 … 64 (16, 32, 64), {{other}}" for kind in ("plain", "other")]
    assert [claim.statement for claim in found] == expected
    assert [(claim.expected, claim.verdict, claim.runs) for claim in found] == [
        ("size ≤ 5", "holds", "15"),
        ("size ≤ 5", "fails", "15"),
    ]
    assert AtMost("size", 5.0, of={"kind": "third"})("none of them", made()) == []


@pytest.mark.parametrize(("power", "verdict"), [(1.0, "holds"), (1.5, "fails")])
def test_power_laws_are_judged_by_their_slopes(power, verdict):
    between, fitted = (
        PowerLaw("size_at_end", "width", 1.0, within=0.1),
        WidthPowers(["size_at_end"], [1.0], of={"kind": "plain"}),
    )
    for judgment in (between, fitted):
        (claim,) = judgment("∝ n", made(power))
        assert claim.verdict == verdict
    np.testing.assert_allclose(slope(made(power)["size_at_end"], "width", (16, 64)), power, rtol=1e-12)


def test_a_power_that_is_not_claimed_is_reported():
    (claim,) = WidthPowers(["size_at_end"], [2.0], of={"kind": "plain"}, unclaimed=" as n → ∞")("∝ n²", made())
    assert (claim.verdict, claim.expected) == ("reported", "+2 as n → ∞")


@pytest.mark.parametrize(("limit", "verdict"), [(3.0, "holds"), (3.2, "fails")])
def test_means_tend_to_their_limit(limit, verdict):
    runs = made()
    n = runs["width"]
    runs = runs.assign(mean=3 + 5 / n + (0.01 * np.cos(np.pi * runs["seed"]) + 0 * n).rename(None))
    (claim,) = Tends("mean", "width", lambda runs: limit, within=3.0)("→ v", runs.sel(kind="plain"))
    assert claim.verdict == verdict


def test_an_undefined_value_leaves_a_claim_undecided_and_text_may_depend_on_the_runs():
    runs = made().assign(part=made()["size_at_end"].where(made()["width"] > 16))
    (claim,) = Judged(lambda runs: f"of {runs['part'].size}", lambda runs: ("1", True), ["part"])("it is so", runs)
    assert (claim.verdict, claim.expected, claim.runs) == ("undecided", "of 30", "30, 10 undefined")
    assert Reported("size_at_end", of={"kind": "plain", "width": 16})("size", runs)[0].measured == "1 (0.99–1)"


def test_a_number_is_drawn_at_the_end_with_its_start_baseline_and_law(ax):
    panel = AtEnd(
        "size", against="width", hue="kind", starts=True, baseline="untrained", law=lambda n: n / 16, theory="$n$"
    )
    entries = panel(ax, made())
    assert set(entries) == {"plain", "other", "at $t=0$", "untrained"}  # the law is in a legend of the panel
    np.testing.assert_allclose(
        ax.containers[0].lines[0].get_ydata(), made()["size_at_end"].sel(kind="plain").median("seed")
    )
    (law,) = dashed(ax)
    np.testing.assert_allclose(law.get_ydata(), np.array(WIDTHS) / 16)
    starts = [line.get_ydata() for line in ax.lines if line.get_linestyle() == ":"]
    np.testing.assert_allclose(starts[1], made()["size"].isel(time=0).sel(kind="other").median("seed"))
    (null,) = [line for line in ax.lines if line.get_linestyle() == "-."]
    assert null.get_color() == GRAY and set(null.get_ydata()) == {7.0}


def test_a_slope_passes_the_middle_of_the_medians(ax):
    AgainstWidth("size", hue="kind", law=Slope({"plain": 1.0, "other": None}))(ax, made())
    (law,) = dashed(ax)
    np.testing.assert_allclose(law.get_ydata(), made()["size_at_end"].sel(kind="plain").median("seed"), rtol=1e-12)
    low, high = ax.get_ylim()
    assert high >= 10 * low and ax.get_xscale() == ax.get_yscale() == "log"


def test_a_closed_form_of_each_run_is_drawn_through_time_and_over_points(ax):
    runs = made().assign(theory=made()["size"] * 3, other=made()["size_at_end"] ** 2)
    entries = Through("size", hue="kind", of={"width": 16}, law="theory")(ax, runs)
    assert set(entries) == {"plain", "other", "at $t=0$", "theory"} and len(dashed(ax)) == 2
    np.testing.assert_allclose(
        dashed(ax)[1].get_ydata(), 3 * runs["size"].sel(width=16, kind="other")[:, 1:].median("seed")
    )
    ax.clear()
    Points("size", against="other", hue="kind", law=Slope(0.5, {"width": 32, "kind": "plain"}))(ax, runs)
    assert len(ax.collections) == 2 and tuple(ax.collections[1].get_facecolor()[0][:3]) != (0, 0, 0)
    x, y = dashed(ax)[0].get_data()
    np.testing.assert_allclose(y, x**0.5, rtol=1e-12)  # they are roots of each other


def test_a_figure_has_its_panels_but_those_without_runs():
    panels = [
        [AtEnd("size", against="width", of={"kind": "plain"}), lambda ax, runs: {}],
        [Through("size", of={"kind": "third"})],
    ]
    dims = {"width": axes.looped(WIDTHS, label="width $n$"), "seed": axes.seeds(SEEDS)}
    experiment = Experiment(
        "sizes",
        "How large?",
        dims,
        lambda key: lambda key: None,
        {"all": lambda told, runs: [reported(told, "1", runs)]},
        panels,
    )
    sheet = experiment.figure(made())
    assert len(sheet.axes) == 2 and sheet.axes[0].get_xlabel() == "width $n$"
    assert [claim.statement for claim in experiment.judge(made())] == ["all"]
    plt.close(sheet)
