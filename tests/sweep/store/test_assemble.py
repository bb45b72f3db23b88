"""Finished runs become one dataset in which every number is where it belongs."""

import dataclasses
import itertools
import warnings

import numpy as np
import numpy.typing as npt
import pytest
import xarray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nfa_flow.sweep.result import RunResult, failed
from nfa_flow.sweep.store.assemble import assemble, summary
from nfa_flow.sweep.store.names import require_own_names

GRID = np.array([0.0, 1.0, 2.0, 4.0])
AXES = {"init": ["small", "large"], "seed": [3, 5]}
OBSERVED = ("loss", "spectrum", "rank")
PLACES = list(itertools.product(range(2), range(2)))


def make_run(times: npt.ArrayLike = GRID, status="completed", seed=0, width=2, **changed):
    times, rng = np.asarray(times, float), np.random.default_rng(seed)
    run = RunResult(
        times=times,
        steps=np.arange(len(times)) * 10,
        observed={
            "loss": rng.normal(size=len(times)),
            "spectrum": rng.normal(size=(len(times), width)),
            "rank": rng.integers(9, size=len(times)),
        },
        status=status,
        reason=f"The run {status}.",
        end_time=float(times[-1]),
        counts={"steps": 30 + seed, "rejected": seed},
        notes={"solver": "Dopri5"},
        seconds=0.25,
    )
    return dataclasses.replace(run, **changed)


def make_results(**changed):
    return {place: make_run(seed=i, **changed) for i, place in enumerate(PLACES)}


def put_together(results, coordinates=None, attrs=None):
    return assemble(AXES, coordinates or {}, results, attrs or {})


def same(values, expected):
    np.testing.assert_array_equal(values, expected)
    return True


def test_every_value_is_at_its_place():
    results = make_results()
    ds = put_together(results, attrs={"title": "T"})
    assert ds.loss.dims == ("init", "seed", "time")
    assert ds.spectrum.dims == ("init", "seed", "time", "spectrum[1]")
    for (i, j), run in results.items():
        chosen = ds.isel(init=i, seed=j)
        same(chosen.loss, run.observed["loss"])
        same(chosen.spectrum, run.observed["spectrum"])
        same(chosen.spectrum_at_end, run.observed["spectrum"][-1])
        same(chosen.step, run.steps)
        assert chosen.loss_at_end == run.observed["loss"][-1]
        assert (chosen.status, chosen.reason, chosen.end_time) == ("completed", "The run completed.", 4.0)
        assert (chosen.total_steps, chosen.rejected) == (run.counts["steps"], run.counts["rejected"])
    assert ds.sel(init="large", seed=5).rejected == 3
    same(ds.time, GRID)
    assert ds.attrs == {"title": "T", "solver": "Dopri5"}
    assert ds.loss.attrs == ds.spectrum_at_end.attrs == {"status": "defined"}
    assert "times" not in ds


def test_whole_numbers_stay_whole_where_nothing_is_missing():
    ds = put_together(make_results())
    assert {ds[name].dtype.kind for name in ("rank", "rank_at_end", "step", "total_steps", "rejected")} == {"i"}
    results = make_results()
    del results[1, 0]
    ds = put_together(results)
    assert {ds[name].dtype.kind for name in ("rank", "rank_at_end", "step", "total_steps", "rejected")} == {"f"}


def test_precision_is_kept():
    single = lambda run: dataclasses.replace(run, observed={"loss": run.observed["loss"].astype(np.float32)})
    results = {place: single(run) for place, run in make_results().items()}
    assert put_together(results).loss.dtype == np.float32
    del results[0, 0]
    assert put_together(results).loss.dtype == np.float32


def test_a_run_that_is_missing_is_nan_and_says_so():
    results = make_results()
    del results[0, 1]
    missing = put_together(results).isel(init=0, seed=1)
    assert (missing.status, missing.reason) == ("missing", "it has not run")
    numbers = [name for name, variable in missing.data_vars.items() if variable.dtype.kind == "f"]
    assert {"loss", "spectrum_at_end", "step", "end_time", "total_steps", "rank"} <= set(numbers)
    assert all(missing[name].isnull().all() for name in numbers)
    assert put_together(results).loss.attrs["status"] == "defined"


def test_nothing_at_all_is_a_dataset_of_missing_runs():
    ds = put_together({})
    assert (ds.status == "missing").all() and ds.sizes == {"init": 2, "seed": 2, "time": 0}


def test_a_run_that_raised_has_a_reason_and_no_numbers():
    results = make_results() | {(0, 1): failed(ValueError("no such width"))}
    ds = put_together(results)
    bad = ds.isel(init=0, seed=1)
    assert (bad.status, bad.reason) == ("error", "ValueError: no such width")
    assert bad.loss.isnull().all() and bad.loss_at_end.isnull() and bad.total_steps.isnull()
    assert ds.attrs["solver"] == "Dopri5"
    same(ds.time, GRID)


def test_only_failed_runs_are_a_dataset():
    ds = put_together({place: failed(ValueError("no")) for place in PLACES})
    assert (ds.status == "error").all() and ds.sizes["time"] == 0


@pytest.mark.parametrize("times", [GRID[:2], [0.0, 1.0, 1.5], [0.0], [0.5]])
@pytest.mark.parametrize("status", ["stopped", "diverged"])
def test_a_run_that_ended_early_is_nan_afterwards_and_keeps_its_end(times, status):
    early = make_run(times, status, seed=9)
    ds = put_together(make_results() | {(1, 0): early})
    same(ds.time, GRID)
    reached = sum(time in GRID for time in times)
    chosen = ds.isel(init=1, seed=0)
    same(chosen.loss[:reached], early.observed["loss"][:reached])
    assert chosen.loss[reached:].isnull().all() and chosen.step[reached:].isnull().all()
    assert chosen.loss_at_end == early.observed["loss"][-1]
    same(chosen.spectrum_at_end, early.observed["spectrum"][-1])
    assert chosen.end_time == times[-1]
    assert ds.loss.attrs["status"] == "defined"


def test_times_are_shared_where_no_run_got_to_its_end():
    results = {(0, 0): make_run([0, 1, 1.5], "stopped"), (0, 1): make_run([0, 1, 2, 3], "diverged")}
    same(put_together(results).time, [0, 1, 2, 3])


@pytest.mark.parametrize("first, second", [((0, 0), (1, 1)), ((1, 1), (0, 0))])
def test_of_equally_long_runs_the_one_that_got_further_has_the_times(first, second):
    completed, stopped = make_run(), make_run([0, 1, 2, 3.5], "stopped", seed=1)
    ds = put_together({first: completed, second: stopped})
    same(ds.time, GRID)
    assert ds.loss_at_end[second] == stopped.observed["loss"][-1]
    further = make_run([0, 1, 2, 3.75], "stopped", seed=2)
    same(put_together({first: stopped, second: further}).time, [0, 1, 2, 3.75])


@pytest.mark.parametrize(
    "other",
    [make_run(2 * GRID), make_run([0, 1, 1.5]), make_run([0.0, 1.25, 1.5], "stopped")],
    ids=["scaled", "completed between", "two times between"],
)
def test_runs_at_times_of_their_own_have_times_as_a_variable(other):
    ds = put_together({(0, 0): make_run(), (1, 1): other})
    assert "time" not in ds.coords and ds.times.dims == ("init", "seed", "time")
    n = len(other.times)
    same(ds.times[0, 0], GRID)
    same(ds.times[1, 1, :n], other.times)
    assert ds.times[1, 1, n:].isnull().all() and ds.times[0, 1].isnull().all()
    same(ds.loss[1, 1, :n], other.observed["loss"])
    same(ds.step[1, 1, :n], other.steps)


def test_a_run_without_an_observable_does_not_shorten_the_time():
    longer = make_run([0, 1, 2, 3, 5], observed={"only here": np.arange(5.0)})
    ds = put_together({(0, 0): make_run(), (1, 1): longer})
    assert ds.loss.sizes["time"] == 5 and ds.loss[1, 1].isnull().all() and ds["only here"][0, 0].isnull().all()


def test_axes_of_different_lengths_are_padded_at_the_end():
    results = make_results() | {(1, 1): make_run(seed=8, width=5)}
    ds = put_together(results)
    assert ds.spectrum.shape == (2, 2, 4, 5) and ds.spectrum_at_end.shape == (2, 2, 5)
    same(ds.spectrum[0, 0, :, :2], results[0, 0].observed["spectrum"])
    assert ds.spectrum[0, 0, :, 2:].isnull().all()
    same(ds.spectrum[1, 1], results[1, 1].observed["spectrum"])
    assert ds.spectrum.attrs == ds.spectrum_at_end.attrs == {"padded": ["spectrum[1]"], "status": "defined"}
    assert "padded" not in ds.loss.attrs


def test_padded_whole_numbers_become_fractions():
    ranks = lambda width: {"ranks": np.ones((4, width), int)}
    results = {place: make_run(observed=ranks(2)) for place in PLACES}
    assert put_together(results).ranks.dtype.kind == "i"
    assert put_together(results | {(0, 0): make_run(observed=ranks(3))}).ranks.dtype.kind == "f"


def test_yes_and_no_stay_so_where_nothing_is_missing():
    results = make_results(observed={"small": np.array([False, True, True, False])})
    assert put_together(results).small.dtype == bool


def test_an_observable_with_another_number_of_axes_is_refused():
    results = make_results() | {(1, 1): make_run(observed={"spectrum": np.zeros(4)})}
    with pytest.raises(ValueError, match=r'`observe\["spectrum"\]` must be .* as many axes .* with 0 and 1 axes'):
        put_together(results)


@pytest.mark.parametrize("name", ["status", "init", "step", "total_steps", "loss_at_end", "kappa"])
def test_a_name_that_is_used_twice_is_refused(name):
    observed = make_run().observed | {name: np.zeros(4)}
    with pytest.raises(ValueError, match=f"`observe` must be given names .* `{name}`"):
        put_together(make_results(observed=observed), {"kappa": (("seed",), np.array([1, 2]))})


def test_no_name_of_the_dataset_is_left_to_an_observable():
    runs = make_results() | {(0, 0): make_run(notes={"solver": "Kvaerno5"}), (1, 1): make_run(2 * GRID)}
    coordinates = {"kappa": (("seed",), np.array([1, 2]))}
    ours = set(put_together(runs, coordinates).variables) - {name + end for name in OBSERVED for end in ("", "_at_end")}
    assert {"times", "status", "total_steps", "solver", "init", "kappa"} <= ours
    for name in ours:
        run = make_run(observed={name: np.zeros(4)})
        with pytest.raises(ValueError, match=f"`observe` must be given names .* `{name}`"):
            require_own_names(run.observed, (*run.counts, *run.notes), {*AXES, *coordinates})


def test_an_axis_keeps_its_name_from_counts_and_notes():
    results = {(i,): make_run(notes={"solver": solver}) for i, solver in enumerate(["Dopri5", "Kvaerno5"])}
    coordinates = {name: (("solver",), np.array([1, 2])) for name in ("rejected", "rejected_of_run")}
    ds = assemble({"solver": ["a", "b"]}, coordinates, results, {})
    assert ds.solver.values.tolist() == ["a", "b"] and ds.solver_of_run.values.tolist() == ["Dopri5", "Kvaerno5"]
    assert ds.rejected.values.tolist() == [1, 2] and ds.rejected_of_run_of_run.values.tolist() == [0, 0]
    (row,) = summary([({"solver": "a", "seconds": 7}, "abc", make_run())])
    assert (row["solver"], row["solver_of_run"], row["seconds"], row["seconds_of_run"]) == ("a", "Dopri5", 7, 0.25)


def test_nan_within_a_run_makes_an_observable_undefined():
    results = make_results()
    results[0, 0].observed["loss"][1] = np.nan
    ds = put_together(results)
    assert ds.loss.attrs["status"] == "undefined" and ds.loss_at_end.attrs["status"] == "defined"


def test_counts_that_are_unknown_are_nan():
    results = make_results() | {(0, 0): make_run(counts={"steps": None, "factor": 0.5})}
    ds = put_together(results)
    assert np.isnan(ds.total_steps[0, 0]) and ds.total_steps[0, 1] == 31
    assert ds.factor[0, 0] == 0.5 and np.isnan(ds.factor[1, 1])


def test_a_count_that_no_run_knows_is_nan():
    assert put_together(make_results(counts={"rejected": None})).rejected.isnull().all()


def test_notes_that_differ_are_variables():
    results = make_results() | {(0, 0): make_run(notes={"solver": "Kvaerno5", "because": "stiff"})}
    ds = put_together(results)
    assert ds.solver.values.tolist() == [["Kvaerno5", "Dopri5"], ["Dopri5", "Dopri5"]]
    assert ds.because.values.tolist() == [["stiff", ""], ["", ""]]
    assert ds.attrs == {}


def test_a_sweep_without_axes_is_one_run():
    run = make_run()
    ds = assemble({}, {}, {(): run}, {})
    assert ds.status.item() == "completed" and ds.loss.dims == ("time",)
    same(ds.loss, run.observed["loss"])


def test_further_coordinates_are_there():
    coordinates = {
        "width": (("init",), np.array([4, 8])),
        "name": (("init", "seed"), np.array([["a", "b"], ["c", "dd"]])),
    }
    ds = put_together(make_results(), coordinates)
    assert ds.sel(init="large").width == 8 and ds.sel(init="large", seed=5).name == "dd"


def test_the_order_in_which_runs_finished_does_not_matter():
    results = make_results() | {(1, 0): make_run([0, 1, 1.5], "stopped"), (1, 1): failed(ValueError("no"))}
    one, other = put_together(results), put_together(dict(reversed(results.items())))
    assert list(one.variables) == list(other.variables)
    for name, variable in one.variables.items():
        assert variable.identical(other[name].variable)
        if variable.dtype != object:
            assert variable.values.tobytes() == other[name].values.tobytes()


@st.composite
def some_results(draw):
    times = st.sampled_from([GRID, GRID[:2], [0.0, 1.0, 1.5], 2 * GRID])
    runs = st.builds(
        make_run, times, st.sampled_from(["completed", "stopped"]), st.integers(0, 5), st.integers(1, 3)
    ) | st.just(failed(ValueError("é")))
    return draw(st.dictionaries(st.sampled_from(PLACES), runs))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some_results())
def test_the_dataset_is_stored_without_warnings_and_comes_back_identical(tmp_path, results):
    coordinates = {"flag": (("init",), np.array([True, False])), "name": (("seed",), np.array(["a", "bc"]))}
    ds = put_together(results, coordinates, {"title": "T"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds.to_zarr(tmp_path / "ds.zarr", mode="w", zarr_format=3, consolidated=False)
        assert xarray.load_dataset(tmp_path / "ds.zarr", engine="zarr", consolidated=False).identical(ds)


def test_the_summary_has_settings_words_counts_and_last_values():
    run, bad = make_run(), failed(ValueError("no"))
    rows = summary([({"init": "small", "seed": 3}, "abc", run), ({"init": "large", "seed": 3}, "def", bad)])
    assert list(rows[0]) == (
        ["init", "seed", "key", "status", "reason", "end_time", "total_steps", "rejected", "solver", "seconds"]
        + ["loss_at_end", "rank_at_end"]
    )
    assert rows[0]["loss_at_end"] == run.observed["loss"][-1] and type(rows[0]["rank_at_end"]) is int
    assert (rows[0]["total_steps"], rows[0]["solver"], rows[0]["seconds"]) == (30, "Dopri5", 0.25)
    assert (rows[1]["init"], rows[1]["status"], rows[1]["reason"]) == ("large", "error", "ValueError: no")
    assert "loss_at_end" not in rows[1]
