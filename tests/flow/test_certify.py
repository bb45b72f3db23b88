import diffrax
import jax
import numpy as np
import pytest

import nfa_flow as nf


def problem():
    net = nf.nets.MLP([3, 5, 2], key=jax.random.key(1), activation="tanh")
    return net, nf.data.linear_teacher(jax.random.key(0), 30, 3, 2, noise=0.1)


def error(run, exact, index):
    leaves = [np.concatenate([np.ravel(W) for W in each.net_at(index).weights]) for each in (run, exact)]
    return np.linalg.norm(leaves[0] - leaves[1]) / np.linalg.norm(leaves[1])


@pytest.fixture(scope="module")
def runs():
    net, data = problem()
    settings = {"save_at": [0.0, 1.0, 10.0, 100.0], "save_nets": True, "progress": False}
    certified = nf.gradient_flow(net, data, 100.0, rtol=1e-5, certify=True, **settings)
    return certified, nf.gradient_flow(net, data, 100.0, rtol=1e-11, **settings)


def test_the_estimate_is_the_true_error(runs):
    certified, exact = runs
    assert certified.observed["parameter_error"][0] == 0
    for index in (1, 2, 3):
        estimate, true = float(certified.observed["parameter_error"][index]), error(certified, exact, index)
        assert 0.3 * true < estimate < 3 * true < 1e-3


def test_the_observables_and_the_net_are_those_of_the_first_run(runs):
    certified, _ = runs
    net, data = problem()
    plain = nf.gradient_flow(net, data, 100.0, rtol=1e-5, save_at=[0.0, 1.0, 10.0, 100.0], progress=False)
    np.testing.assert_allclose(plain.observed["loss"], certified.observed["loss"], rtol=1e-12)
    assert certified.stats["steps"] == plain.stats["steps"]


def test_networks_are_kept_only_if_asked_for_and_a_stopped_run_is_certified_up_to_its_stop():
    net, data = problem()
    stop = nf.flow.LossBelow(0.1)
    run = nf.gradient_flow(net, data, 1e3, rtol=1e-4, stop=stop, certify=True, save_at=[0.0, 0.5, 1e3], progress=False)
    assert run.nets is None and run.status == "stopped"
    assert np.isfinite(run.observed["parameter_error"][:2]).all()


def test_a_constant_step_cannot_be_certified():
    net, data = problem()
    with pytest.raises(ValueError, match="`certify` must be False with the constant step of Euler"):
        nf.gradient_flow(net, data, 1.0, solver=diffrax.Euler(), dt0=0.1, certify=True)


def test_the_name_of_the_estimate_is_taken():
    net, data = problem()
    with pytest.raises(ValueError, match="`observe` must be without the name parameter_error"):
        nf.gradient_flow(net, data, 0.1, observe={"parameter_error": nf.measure.loss}, certify=True, progress=False)
