"""Figures of runs: what is drawn, on which axes, under which names."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest

import nfa_flow as nf
from nfa_flow.plot.style import PALETTE
from nfa_flow.run.trees import flatten

OBSERVE = {
    "loss": nf.measure.loss,
    "weights": lambda net, data: net.weights[0],
    "decaying": lambda net, data: nf.measure.loss(net, data) ** 9,
    "undefined": lambda net, data: jnp.nan * nf.measure.loss(net, data),
    "exponent": nf.measure.fit_exponent,
}


@pytest.fixture(scope="module")
def run():
    data = nf.data.linear_teacher(30, 4, 2, key=jax.random.key(0))
    net = nf.nets.MLP([4, 5, 2], key=jax.random.key(1), init=nf.nets.Balanced(0.1))
    return nf.gradient_descent(net, data, optax.sgd(0.1), 60, observe=OBSERVE, progress=False)


@pytest.fixture(scope="module")
def runs(run):
    slower = eqx.tree_at(lambda r: r.times, run, 2 * run.times)
    return {"flow": run, "slow": slower, "only loss": eqx.tree_at(lambda r: r.observed, run, {"loss": slower.times})}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def curves(ax):
    """The drawn curves by label, without the horizontal line of the start."""
    return {line.get_label(): line for line in ax.lines if line.get_linestyle() == "-"}


def test_one_run_is_one_curve_over_logarithmic_time(run):
    ax = nf.plot.observable(run, "loss")
    (curve,) = curves(ax).values()
    np.testing.assert_array_equal(curve.get_xdata(), run.times[1:])
    np.testing.assert_array_equal(curve.get_ydata(), run.observed["loss"][1:])
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "time $t$ (learning rate × step)"
    assert ax.get_ylabel() == "loss $\\mathcal{L}$"


def test_the_value_at_time_zero_is_a_dotted_line(run):
    ax = nf.plot.observable(run, "loss")
    (start,) = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert set(start.get_ydata()) == {float(run.observed["loss"][0])}
    assert start.get_label() == "at $t=0$"


def test_several_runs_are_curves_by_name_and_the_first_is_thickest(runs):
    drawn = curves(nf.plot.observable(runs, "loss"))
    assert list(drawn) == ["flow", "slow", "only loss"]
    widths = [line.get_linewidth() for line in drawn.values()]
    assert widths[0] > widths[1] == widths[2]
    assert [line.get_color() for line in drawn.values()] == list(PALETTE[:3])


def test_a_run_without_the_observable_is_left_out(runs):
    assert list(curves(nf.plot.observable(runs, "exponent.exponent"))) == ["flow", "slow"]


def test_values_over_two_decades_have_a_logarithmic_axis(run):
    values = np.asarray(run.observed["decaying"])
    assert values.max() > 100 * values.min() > 0
    assert nf.plot.observable(run, "decaying").get_yscale() == "log"
    assert nf.plot.observable(run, "exponent.exponent").get_yscale() == "linear"


def test_an_observable_that_is_nowhere_a_number_says_so(run):
    assert [text.get_text() for text in nf.plot.observable(run, "undefined").texts] == ["undefined"]
    assert not nf.plot.observable(run, "loss").texts


def test_axes_and_label_of_ones_own(run):
    ax = nf.plot.style.new_figure(2)[1][1]
    assert nf.plot.observable(run, "loss", ax=ax, label="training loss") is ax
    assert ax.get_ylabel() == "training loss"
    assert nf.plot.observable(run, "exponent.directions").get_ylabel() == "exponent.directions"


@pytest.mark.parametrize("name", ["nothing", "weights", "exponent"])
def test_what_is_no_scalar_observable_is_named(name, run):
    known = r"\['decaying', 'exponent.directions', .*'loss', 'undefined'\]"
    with pytest.raises(
        ValueError, match=f"`name` must be a scalar observable of these runs, {known}, but was '{name}'"
    ):
        nf.plot.observable(run, name)


def test_an_overview_has_a_panel_for_each_observable_and_one_legend(runs, tmp_path):
    figure = nf.plot.overview(runs, ["loss", "exponent.exponent"])
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss $\\mathcal{L}$", "fitted exponent $\\hat\\alpha$"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["flow", "slow", "only loss", "at $t=0$"]
    assert not legend.get_frame_on()
    figure.savefig(tmp_path / "figure.png")
    height, width, _ = plt.imread(tmp_path / "figure.png").shape
    assert (width, height) == (round(2 * 3.6 * 150), round(2.9 * 150))


def test_drawing_leaves_the_settings_of_matplotlib_alone(run):
    before = dict(plt.rcParams)
    nf.plot.overview(run, ["loss"])
    assert dict(plt.rcParams) == before


def with_values(run, times, values):
    """A run of these times and losses."""
    series = {"times": jnp.asarray(times, float), "steps": jnp.arange(len(times), dtype="int32")}
    return dataclasses.replace(run, **series, observed={"loss": jnp.asarray(values, float)})


def test_a_run_that_blew_up_is_drawn_as_far_as_an_axis_goes(run, tmp_path):
    blown_up = with_values(run, [0, 1, 2, 3], [0.2, 1.8e46, 3.5e286, np.inf])
    sheet = nf.plot.overview(blown_up, ["loss"])
    sheet.savefig(tmp_path / "a.png")
    (curve,) = [line for line in sheet.axes[0].get_lines() if len(line.get_xdata()) == 3]
    np.testing.assert_array_equal(curve.get_ydata(), [1.8e46, np.nan, np.nan])


@pytest.mark.parametrize("times", [[0.0], [-5.0, -3.0, -1.0]])
def test_without_a_positive_time_the_axis_is_linear(times, run, tmp_path):
    ax = nf.plot.observable(with_values(run, times, np.arange(len(times)) + 1.0), "loss")
    ax.figure.savefig(tmp_path / "a.png")
    assert ax.get_xscale() == "linear"
    np.testing.assert_array_equal(ax.get_lines()[0].get_xdata(), times)


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_an_overview_shows_by_default_all_that_the_runs_have(run, runs):
    figure = nf.plot.overview({"only": runs["only loss"]})
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss $\\mathcal{L}$"]
    data = nf.data.linear_teacher(30, 4, 2, key=jax.random.key(0))
    assert len(nf.plot.overview(nf.gradient_flow(run.net, data, 0.1, progress=False)).axes) == 1
    scalars = [name for name, values in flatten(run.observed).items() if values.ndim == 1]
    assert len(nf.plot.overview(run).axes) == len(scalars) > 4


@pytest.mark.parametrize("label", ["SGD momentum", "a name that is too long for the figure " * 3])
def test_no_legend_is_wider_than_its_figure(label, run, tmp_path):
    figure = nf.plot.overview({label: run, **{f"run number {i}": run for i in range(4)}}, ["loss"])
    figure.savefig(tmp_path / "figure.png")
    (legend,) = figure.legends
    inside = legend.get_window_extent()
    assert 0 <= inside.x0 < inside.x1 <= figure.bbox.width
    assert figure.axes[0].get_window_extent().height > 0.5 * 2.9 * 150


def test_an_observable_has_a_legend_unless_it_has_none_of_its_own(runs):
    assert texts(nf.plot.observable(runs, "loss").get_legend()) == ["flow", "slow", "only loss", "at $t=0$"]
    assert nf.plot.observable(runs, "loss", legend=False).get_legend() is None


def test_time_that_counts_steps_is_told_from_that_of_the_flow(run):
    data = nf.data.linear_teacher(30, 4, 2, key=jax.random.key(0))
    steps = nf.gradient_descent(run.net, data, optax.adam(0.1), 3, time_per_step=1.0, progress=False)
    ax = nf.plot.observable({"flow": run, "Adam": steps}, "loss")
    assert texts(ax.get_legend())[:2] == ["flow", "Adam (steps of an optimizer)"]
    assert ax.get_xlabel() == "time $t$ (learning rate × step)"
    assert nf.plot.observable(steps, "loss").get_xlabel() == "time $t$ (steps of an optimizer)"


@pytest.mark.parametrize("runs", [{}, 3, [1], {"a": 1}, "run"])
def test_what_is_no_run_is_named(runs, no_type_checks):
    with pytest.raises(ValueError, match="`runs` must be a `Trajectory`, or a mapping"):
        nf.plot.overview(runs)


@pytest.mark.parametrize("names", [[], "loss", 3])
def test_an_overview_needs_a_sequence_of_names(names, run, no_type_checks):
    with pytest.raises(ValueError, match="`names` must be a sequence of names of scalar observables"):
        nf.plot.overview(run, names)
