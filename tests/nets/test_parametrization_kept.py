"""A parametrization as a setting of a sweep, and in what is stored of a run."""

import diffrax
import jax
import numpy as np
import pytest

import nfa_flow as nf

DATA = nf.data.linear_teacher(20, 3, 2, key=jax.random.key(0))
TSIT5 = diffrax.Tsit5()
SCHEMES = {"muP": nf.nets.muP(), "Spectral": nf.nets.Spectral(), "abc": nf.nets.ABC((0, 0), (0, 0.5), (1, 0.5))}


def one_run(key, scheme):
    net = nf.nets.MLP([3, 6, 2], key=key, parametrization=scheme)
    options = {"solver": TSIT5, "save_at": [0.0, 1.0], "progress": False}
    return nf.gradient_flow(net, DATA, 1.0, observe={"nfm": nf.measure.nfm}, **options)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    store = tmp_path_factory.mktemp("sweep") / "runs.zarr"
    return store, nf.sweep(one_run, nf.Grid(scheme=SCHEMES, seed=range(2)), store=store, progress=False)


def test_each_run_of_a_sweep_over_parametrizations_is_that_of_a_single_call(swept):
    _, dataset = swept
    assert dataset["scheme"].values.tolist() == list(SCHEMES)
    for name, scheme in SCHEMES.items():
        alone = one_run(jax.random.key(1), scheme).observed["nfm"]
        np.testing.assert_allclose(dataset["nfm"].sel(scheme=name, seed=1), alone, rtol=1e-12)
    ends = dataset["nfm_at_end"].sel(seed=1).values
    assert abs(ends[0] - ends[1]).max() > 0.01 and abs(ends[0] - ends[2]).max() > 0.01


def test_names_do_as_well(swept):
    named = nf.sweep(one_run, nf.Grid(scheme=["muP", "Spectral"], seed=[0]), progress=False)
    np.testing.assert_allclose(named["nfm"], swept[1]["nfm"].sel(scheme=["muP", "Spectral"], seed=[0]), rtol=1e-12)


def test_a_sweep_over_parametrizations_resumes_but_takes_none_for_another_of_the_same_name(swept):
    store, dataset = swept
    tallies = []
    again = nf.sweep(one_run, nf.Grid(scheme=SCHEMES, seed=range(2)), store=store, progress=tallies.append)
    assert tallies == []  # there was nothing left to run, and to tell of
    np.testing.assert_array_equal(again["nfm"], dataset["nfm"])
    other = nf.sweep(one_run, nf.Grid(scheme={"muP": nf.nets.NTP()}, seed=[1]), store=store, progress=tallies.append)
    assert tallies[-1].done == 1
    alone = one_run(jax.random.key(1), nf.nets.NTP()).observed["nfm"]
    np.testing.assert_allclose(other["nfm"].squeeze(), alone, rtol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))
def test_a_stored_network_keeps_its_parametrization(scheme, tmp_path):
    run = one_run(jax.random.key(0), scheme)
    loaded = nf.Trajectory.load(run.save(tmp_path / "run.zarr"))
    assert loaded.net.parametrization == scheme and loaded.net.mobility == run.net.mobility
    np.testing.assert_array_equal(loaded.net.weights[0], run.net.weights[0])


def test_a_parametrization_of_ones_own_needs_a_network_like_it(tmp_path):
    class Own(nf.nets.Spectral):
        pass

    net = nf.nets.MLP([3, 6, 2], key=jax.random.key(0), parametrization=Own())
    run = nf.gradient_flow(net, DATA, 1.0, solver=TSIT5, progress=False)
    path = run.save(tmp_path / "run.zarr")
    assert nf.Trajectory.load(path).net is None
    assert nf.Trajectory.load(path, like=net).net.parametrization is net.parametrization
