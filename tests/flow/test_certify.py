import contextlib
import os

import diffrax
import jax
import numpy as np
import pytest
from oracles import parameters, relative

import nfa_flow as nf
from nfa_flow.run import drive


def problem():
    net = nf.nets.MLP([3, 5, 2], key=jax.random.key(1), activation="tanh")
    return net, nf.data.linear_teacher(30, 3, 2, key=jax.random.key(0), noise=0.1)


def error(run, exact, index):
    leaves = [np.concatenate([np.ravel(W) for W in each.net_at(index).weights]) for each in (run, exact)]
    return np.linalg.norm(leaves[0] - leaves[1]) / np.linalg.norm(leaves[1])


TIMES = [0.0, 1.0, 10.0, 100.0]
QUIET = {"solver": diffrax.Tsit5(), "progress": False}


def certified(checkpoint=None, *, rtol=1e-5, **options):
    net, data = problem()
    options = {"save_at": TIMES, **QUIET} | options
    return nf.gradient_flow(net, data, 100.0, rtol=rtol, certify=True, checkpoint=checkpoint, **options)


def plain(rtol):
    net, data = problem()
    return nf.gradient_flow(net, data, 100.0, rtol=rtol, save_at=TIMES, save_nets=True, **QUIET)


@pytest.fixture(scope="module")
def runs():
    return certified(save_nets=True), plain(1e-11)


def test_the_estimate_is_the_true_error(runs):
    run, exact = runs
    assert run.observed["parameter_error"][0] == 0
    for index in (1, 2, 3):
        estimate, true = float(run.observed["parameter_error"][index]), error(run, exact, index)
        assert 0.3 * true < estimate < 3 * true < 1e-3


def test_the_observables_and_the_net_are_those_of_the_first_run(runs):
    run, alone = runs[0], plain(1e-5)
    np.testing.assert_allclose(alone.observed["loss"], run.observed["loss"], rtol=1e-12)
    # The gradients of the loss identity are not counted.
    assert {**run.stats, "seconds": 0} == {**alone.stats, "seconds": 0}


def test_networks_are_kept_only_if_asked_for_and_a_stopped_run_is_certified_up_to_its_stop():
    run = certified(rtol=1e-4, stop=nf.flow.LossBelow(0.1))
    assert run.nets is None and run.status == "stopped"
    assert (run.times < run.end_time).sum() == 2 and run.times[-1] == run.end_time
    assert np.isfinite(run.observed["loss_identity_error"]).all()
    fine = nf.gradient_flow(*problem(), run.end_time, rtol=1e-11, **QUIET)
    at_end = relative(parameters(run.net) - parameters(fine.net), parameters(fine.net))
    assert 0.3 * at_end < run.observed["parameter_error"][-1] < 3 * at_end


def test_a_run_that_stops_at_its_start_is_certified_there():
    for times in (TIMES, TIMES[1:]):
        run = certified(stop=nf.flow.LossBelow(1e3), save_at=times)
        assert run.end_time == 0
        np.testing.assert_array_equal(run.observed["parameter_error"], [0])


def test_a_constant_step_cannot_be_certified():
    net, data = problem()
    with pytest.raises(ValueError, match="`certify` must be False with the constant step of Euler"):
        nf.gradient_flow(net, data, 1.0, solver=diffrax.Euler(), dt0=0.1, certify=True)


@pytest.mark.parametrize("name", ["parameter_error", "loss_identity_error", "balance_error"])
def test_the_names_of_the_errors_are_taken(name):
    net, data = problem()
    with pytest.raises(ValueError, match=f"`observe` must be without the names .* but was {name}"):
        nf.gradient_flow(net, data, 0.1, observe={name: nf.measure.loss}, certify=True, progress=False)


@pytest.fixture
def slices(monkeypatch):
    """A function that says after which slice of which run Ctrl-C comes, and returns the progress of the runs to be."""
    monkeypatch.setattr(drive, "_FIRST_BUDGET", 7)
    monkeypatch.setattr(drive, "_SLICE_SECONDS", 0.0)  # never more than a quarter of the last budget, at least one

    def watch(run=None, slices=None):
        progress = []

        @contextlib.contextmanager
        def progress_bar(label, shown):
            progress.append([])

            def show(fraction):
                progress[-1].append(fraction)
                if (len(progress), len(progress[-1])) == (run, slices):
                    raise KeyboardInterrupt

            yield show

        monkeypatch.setattr(drive, "_progress_bar", progress_bar)
        return progress

    return watch


def test_an_interrupted_certified_run_repeats_nothing(slices, tmp_path):
    whole, file = certified(), tmp_path / "run"

    first = slices(run=1, slices=3)
    with pytest.raises(nf.RunInterrupted):
        certified(file)
    assert os.listdir(tmp_path) == ["run"]

    second = slices(run=2, slices=3)
    with pytest.raises(nf.RunInterrupted) as raised:
        certified(file)
    assert first[0][-1] < second[0][0]
    assert set(os.listdir(tmp_path)) == {"run", "run.certify"}
    np.testing.assert_array_equal(raised.value.trajectory.observed["loss"], whole.observed["loss"])
    assert np.isnan(raised.value.trajectory.observed["parameter_error"][-1])

    third = slices()
    resumed = certified(file)
    assert third[0] == [] and second[1][-1] < third[1][0]
    assert os.listdir(tmp_path) == []
    assert {**resumed.stats, "seconds": 0} == {**whole.stats, "seconds": 0}
    for name, values in whole.observed.items():
        np.testing.assert_array_equal(resumed.observed[name], values)


def test_a_certified_run_that_fails_leaves_no_checkpoint(tmp_path):
    with pytest.raises(nf.RunError, match="maximum number of steps"):
        certified(tmp_path / "run", max_steps=5)
    run = certified(tmp_path / "run", max_steps=5, throw=False)
    assert run.status == "max_steps" and np.isfinite(run.observed["loss_identity_error"]).all()
    assert os.listdir(tmp_path) == []
