"""Shapes of the start, when the saddle is left, and what the experiment says of made-up runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import nfa_flow as nf
from nfa_flow.studies.nfa import initialization
from nfa_flow.studies.nfa.common import OneOf
from nfa_flow.studies.nfa.initialization import (
    INITIALIZATION,
    INITS,
    LowRank,
    MeanField,
    departure,
    least_unlearnt,
    unlearnt,
)

KEY = jax.random.key(0)
TIMES = initialization._TIMES


def test_layers_of_low_rank_have_it_and_the_size_of_gaussian_ones():
    for W in LowRank(2.0, rank=3)(KEY, (60, 80, 50), jnp.float64):
        assert np.linalg.matrix_rank(W) == 3
        # A product of Gaussian factors through 3 directions: ‖W‖² has relative standard deviation about (2/3 · 2/50)^½.
        assert np.sum(W**2) == pytest.approx(4 * W.shape[0], rel=5 * np.sqrt(2 / 3 * 2 / 50))


def test_mean_field_layers_are_gaussian_ones_over_the_root_of_their_width():
    gaussian, mean_field = (make(0.5)(KEY, (4, 9, 16), jnp.float64) for make in (nf.nets.Gaussian, MeanField))
    np.testing.assert_array_equal(mean_field[0], gaussian[0])
    np.testing.assert_allclose(mean_field[1], gaussian[1] / 3, rtol=1e-15)


def test_a_start_chosen_by_a_traced_place_is_that_start():
    options = tuple(make(0.3) for make in INITS.values())
    draw = jax.jit(lambda place: OneOf(options, place)(KEY, (4, 4, 4), jnp.float64))
    for place, make in enumerate(INITS.values()):
        for chosen, own in zip(draw(place), make(0.3)(KEY, (4, 4, 4), jnp.float64), strict=True):
            np.testing.assert_allclose(chosen, own, rtol=1e-12)


def test_nothing_is_left_to_learn_of_least_squares_and_all_of_zero():
    data = nf.data.linear_teacher(30, 4, 2, key=KEY, noise=0.5)
    best = jnp.linalg.solve(data.S_xx, data.S_xy).T
    net = nf.nets.MLP([4, 2], key=KEY).with_weights([best])
    assert unlearnt(net, data) == pytest.approx(0, abs=1e-12)
    assert unlearnt(net.with_weights([0 * best]), data) == pytest.approx(1, abs=1e-12)


def test_the_share_left_to_learn_is_that_of_the_loss():
    data = nf.data.linear_teacher(30, 4, 2, key=KEY, noise=0.5)
    net = nf.nets.MLP([4, 3, 2], key=KEY)
    loss = lambda A: nf.measure.loss(nf.nets.MLP([4, 2], key=KEY).with_weights([A]), data)
    least, zero = loss(jnp.linalg.solve(data.S_xx, data.S_xy).T), loss(jnp.zeros((2, 4)))
    share = (nf.measure.loss(net, data) - least) / (zero - least)
    assert unlearnt(net, data) == pytest.approx(float(share), rel=1e-12)


def test_the_best_map_of_rank_four_leaves_the_smallest_mode_of_whitened_data():
    data = nf.data.linear_teacher(40, 6, 5, key=KEY, whiten=True)
    A = jnp.linalg.solve(data.S_xx, data.S_xy).T
    U, s, Vt = jnp.linalg.svd(A, full_matrices=False)
    truncated = nf.nets.MLP([6, 5], key=KEY).with_weights([(U[:, :4] * s[:4]) @ Vt[:4]])
    assert least_unlearnt(data) == pytest.approx(float(s[4] ** 2 / jnp.sum(s**2)), rel=1e-12)
    assert unlearnt(truncated, data) == pytest.approx(float(least_unlearnt(data)), rel=1e-12)


def made(scales=(1e-6, 1e-3, 1e-2, 0.1, 1.0, 3.0), *, power=2.0, departs=1.0, rank_left=0.0):
    """Two seeds of each start, whose error is scale^power, of balance scale², who learn at once after departs/scale."""
    scale = np.array(scales)[None, :, None, None]
    shape = (len(INITS), len(scales), 2, TIMES.size)
    is_learnt = np.broadcast_to(TIMES > departs / scale, shape)
    least = np.broadcast_to(np.where(np.array(list(INITS)) == "rank 2", 0.1, 0.0)[:, None, None, None], shape)
    of_scale = {
        "relative_error": np.where(TIMES > 0, np.minimum(scale**power, 0.8), 0.7),
        "imbalance": scale**2,
        "nfm_norm": 2.0,
        "unlearnt": np.where(is_learnt, least, 1.0),
        "least_unlearnt": 0.1,
        "rank_left": rank_left,
    }
    dims, variables = ("init", "scale", "seed"), {name: np.broadcast_to(v, shape) for name, v in of_scale.items()}
    every = {name: ((*dims, "time"), values) for name, values in variables.items()}
    ends = {f"{name}_at_end": (dims, values[..., -1]) for name, values in variables.items()}
    coords = {"init": list(INITS), "scale": list(scales), "seed": [0, 1], "time": TIMES}
    return xarray.Dataset(every | ends | {"status": (dims, np.full(shape[:-1], "completed"))}, coords)


def test_departure_lies_between_observations_and_is_undefined_for_those_who_stay():
    found = departure(made(departs=2.0))
    assert np.isnan(found.sel(scale=1e-6)).all()
    step = TIMES[2] / TIMES[1]
    np.testing.assert_allclose(np.log(found.sel(scale=1e-2).astype(float) / 200), 0, atol=np.log(step))


def test_each_claim_fails_with_its_law():
    laws = lambda dataset: [claim.holds for claim in INITIALIZATION.judge(dataset) if claim.holds is not None]
    broken = lambda dataset: [place for place, holds in enumerate(laws(dataset)) if not holds]
    error, imbalance, saddle, horizon, stays, rank, best = range(7)
    assert laws(made()) == [True] * 7
    assert broken(made(power=1.9)) == [error, imbalance]
    assert broken(made(rank_left=1e-3)) == [rank]
    assert broken(made().map(lambda values: values + 1e-3 if values.name == "unlearnt_at_end" else values)) == [
        horizon,
        best,
    ]
    assert broken(made(departs=0.01)) == [stays]
    late = made()
    late["unlearnt"] = late["unlearnt"].where((late["scale"] != 1e-3) | (late["time"] > 5e4), 1.0)
    assert broken(late) == [saddle]
