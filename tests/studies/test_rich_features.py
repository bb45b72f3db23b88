"""What the experiments on rich features measure, and what they say of runs that break their laws."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray

import nfa_flow as nf
from nfa_flow.studies.rich_features.against_width import promised
from nfa_flow.studies.rich_features.common import HIDDEN, SCHEMES, shape_of
from nfa_flow.studies.rich_features.feature_change import FeatureChange
from nfa_flow.studies.rich_features.features import FEATURES, FLOW
from nfa_flow.studies.rich_features.infinite_width import INFINITE_WIDTH, TIMES, limit, scores
from nfa_flow.studies.rich_features.rich_data import CIFAR10, RICH_DATA
from nfa_flow.studies.schemes import network
from nfa_flow.training import Descent

KEY = jax.random.key(0)
DATA = nf.data.Dataset(jax.random.normal(KEY, (4, 3)), jnp.ones((4, 1)))
WIDTHS, SEEDS = (64, 128, 256), 8


def started(place, width, activation="tanh"):
    return network(KEY, shape_of(DATA, width), activation, list(SCHEMES.values()), place)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_network_by_the_place_of_its_parametrization_is_the_one_of_its_name(name):
    net, mobility = started(jnp.asarray(list(SCHEMES).index(name)), 8)
    named = nf.nets.MLP(net.widths, key=KEY, activation="tanh", parametrization=SCHEMES[name])
    np.testing.assert_allclose(mobility, SCHEMES[name].effective(net.widths).mobility, rtol=1e-12)
    for W, other in zip(net.weights, named.weights, strict=True):
        np.testing.assert_allclose(W, other, rtol=1e-12)


def test_descent_moves_each_layer_by_its_mobility():
    net, _ = started(0, 8)
    trained = lambda **options: Descent("gd", 0.1, 1)(net, DATA, KEY, progress=False, **options).net.weights
    mobility = (2.0, 3.0, 4.0)
    for m, W, once, more in zip(mobility, net.weights, trained(), trained(mobility=mobility), strict=True):
        np.testing.assert_allclose(more - W, m * (once - W), atol=1e-15)


def test_features_are_measured_by_their_definition():
    net, _ = started(3, 16)
    moved = net.with_weights([W + 0.1 * jnp.sin(jnp.arange(W.size).reshape(W.shape)) for W in net.weights])
    sizes = FeatureChange(net, DATA.x)(moved, DATA)
    H_0 = np.tanh(DATA.x @ net.weights[0].T)
    H = np.tanh(DATA.x @ moved.weights[0].T)
    assert sizes["change_1"] == pytest.approx(np.sqrt(np.mean((H - H_0) ** 2)), rel=1e-12)
    assert sizes["relative_1"] == pytest.approx(np.linalg.norm(H - H_0) / np.linalg.norm(H_0), rel=1e-12)
    for name, rows in (("smallest_1", H), ("joint_1", np.concatenate([H_0, H]))):
        eigenvalues = np.linalg.eigvalsh(rows @ rows.T / 16)
        assert sizes[name] == pytest.approx(eigenvalues[0], abs=1e-14 * eigenvalues[-1])
    still = FeatureChange(net, DATA.x)(net, DATA)
    assert still["change_2"] == 0 and still["joint_independence_2"] < 1e-14


def test_fewer_inputs_than_samples_leave_linear_features_dependent():
    for activation, is_independent in (("identity", False), ("tanh", True)):
        net, _ = started(3, 16, activation)
        assert (FeatureChange(net, DATA.x)(net, DATA)["independence_2"] > 1e-10) == is_independent


def test_cifar_10_takes_part_where_the_environment_says_where_it_is(monkeypatch):
    monkeypatch.delenv(CIFAR10, raising=False)
    assert RICH_DATA.grid("quick").dimensions["images"] == ("digits",)
    monkeypatch.setenv(CIFAR10, "somewhere")
    assert RICH_DATA.grid("quick").dimensions["images"] == ("digits", "CIFAR-10")


def made(*, dim="case", names=(FLOW,), power=0.0, smallest=0.01, independence=0.03, left=1e-9, status="completed"):
    """Runs in which features change by the promised powers of the width, muP's by another one if that is said."""
    shape = (len(names), len(WIDTHS), len(SCHEMES), SEEDS)
    n, jitter = np.asarray(WIDTHS, float)[:, None, None], 1 + 0.01 * np.random.default_rng(0).normal(size=shape)
    ends = {"loss": left * jitter, "accuracy": 0.8 * jitter}
    for l in range(1, HIDDEN + 1):
        powers = [promised(name, l) or 0.0 for name in list(SCHEMES)[:-1]] + [power]
        ends[f"features.change_{l}"] = 0.5 * (n / 64) ** np.array(powers)[:, None] * jitter
        ends[f"features.relative_{l}"] = ends[f"features.change_{l}"] / 0.6
        ends[f"features.smallest_{l}"] = smallest * jitter
        ends[f"features.independence_{l}"] = independence * jitter
        ends[f"features.joint_{l}"] = 0.001 * jitter
        ends[f"features.joint_independence_{l}"] = 0.01 * jitter
    dims = (dim, "width", "scheme", "seed")
    variables = {f"{name}_at_end": (dims, values) for name, values in ends.items()}
    starts = ends | {"loss": np.full(shape, 0.4)}
    variables |= {name: ((*dims, "time"), np.stack([starts[name], ends[name]], axis=-1)) for name in ends}
    coords = {dim: list(names), "width": list(WIDTHS), "scheme": list(SCHEMES), "seed": np.arange(SEEDS)}
    return xarray.Dataset(variables | {"status": (dims, np.full(shape, status))}, coords | {"time": [0.0, 100.0]})


def verdicts(experiment, dataset):
    return [claim.holds for claim in experiment.judge(dataset)]


def test_each_claim_on_features_fails_with_its_law():
    reports = [None] * 4
    assert verdicts(FEATURES, made()) == [True, True, None, True, True, *reports, True, None]
    assert verdicts(FEATURES, made(power=-0.5)) == [True, True, None, False, True, *reports, True, None]
    assert verdicts(FEATURES, made(independence=1e-6)) == [True, True, None, True, False, *reports, True, None]
    assert verdicts(FEATURES, made(left=0.39)) == [True, True, None, True, True, *reports, False, None]
    assert set(verdicts(FEATURES, made(status="diverged"))) == {None}


def test_nothing_is_claimed_outside_of_the_theorem():
    outside = FEATURES.judge(made(names=(FLOW, "ReLU, SGD", "identity, SGD")))
    of_others = [claim for claim in outside if claim.statement.startswith(("ReLU", "identity"))]
    assert len(of_others) == 18 and all(claim.holds is None for claim in of_others)
    assert sum("outside of the theorem" in claim.expected for claim in of_others) == 8


def test_on_images_sp_is_reported_and_the_others_are_claimed():
    reports = [None] * 8
    of = lambda **options: verdicts(RICH_DATA, made(dim="images", names=("digits",), **options))
    assert of() == [None, True, None, True, True, *reports]
    assert of(power=0.5) == [None, True, None, False, True, *reports]


def made_wide(power=-0.5, shift=0.0):
    """Networks around the infinite one at a distance of this power of the width, and a multiple of A beside it."""
    random, sizes = np.random.default_rng(1), np.asarray(WIDTHS, float)[:, None, None, None, None]
    dims, layers = ("layers", "width", "seed", "time"), [2, 3]
    noise = lambda M: 0.1 * (sizes / 64) ** power * random.normal(size=(len(WIDTHS), 40, 1, *M.shape[1:]))
    around = lambda limits: np.stack([M + noise(M) for M in limits])
    A = around([limit(each).nfm * (1 + shift) for each in layers])
    P = around([limit(each).end_to_end for each in layers])
    values: dict = {"A": ((*dims, "i", "j"), A), "P": ((*dims, "k", "j"), P)}
    values["status"] = (dims[:3], np.full((2, len(WIDTHS), 40), "completed"))
    return xarray.Dataset(values, {"layers": layers, "width": list(WIDTHS), "seed": np.arange(40), "time": TIMES})


def test_each_claim_on_infinite_width_fails_with_its_law():
    of = lambda **options: np.reshape(verdicts(INFINITE_WIDTH, made_wide(**options)), (2, 5))  # by layers
    assert of()[:, :2].all()
    assert not of(power=-1.0)[:, :2].any()
    assert not of(shift=0.2)[:, 3].any()


@pytest.mark.parametrize("layers", [2, 3])
def test_scores_of_a_network_are_those_that_the_library_measures(layers):
    net = nf.nets.MLP([4, *[9] * (layers - 1), 2], key=KEY, parametrization="muP")
    data = nf.data.linear_teacher(100, 4, 2, key=KEY, noise=0.1)  # as the experiment has them
    found = scores(np.asarray(nf.measure.nfm(net) / 9)[None], np.asarray(net.affine()[0])[None], layers)
    error = nf.measure.alignment(1 / layers, metric="relative_error")(net, data)
    assert found["relative_error"] == pytest.approx(float(error), rel=1e-9)
    assert found["loss"] == pytest.approx(float(nf.measure.loss(net, data)), rel=1e-12)


def test_figures_draw():
    for experiment, dataset in (
        (FEATURES, made()),
        (RICH_DATA, made(dim="images", names=("digits", "CIFAR-10"))),
        (INFINITE_WIDTH, made_wide()),
    ):
        sheet = experiment.figure(dataset)
        assert all(ax.has_data() for ax in sheet.axes)
        plt.close(sheet)
