"""The time to a loss is that at which the flow stops, and the claims on the flow fail with their laws."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray

import nfa_flow as nf
from nfa_flow.studies.schemes import network
from nfa_flow.studies.spectral.common import shape_of, task
from nfa_flow.studies.spectral.flow import (
    FLOW,
    PLAIN,
    SCHEMES,
    TIME_POWERS,
    Reached,
    powers_at_level,
)
from nfa_flow.studies.spectral.layers import LayerNorms

NAMES, WIDTHS, LEVEL = list(SCHEMES), np.array([64, 128, 256]), 0.3


def made(*, slower=0.0, tilt=0.0, reached=True):
    """Losses 1/t in units of the promised time, observed at a few times and at the end; updates of promised powers."""
    dims, seeds = ("width", "scheme", "seed"), np.arange(8)
    power = np.array([TIME_POWERS[name] for name in NAMES]) + slower
    unit = (WIDTHS[:, None, None] / 64.0) ** power[:, None] * (1 + 0.01 * np.cos(seeds))
    end = unit / (LEVEL if reached else 1.1 * LEVEL)
    times = np.append(0.0, np.geomspace(1e-3, 100, 20))
    with np.errstate(divide="ignore"):
        loss = np.where(times < end[..., None], np.minimum(unit[..., None] / times, 1e3), np.nan)
    updates = np.array([powers_at_level(name) for name in NAMES]) + tilt
    update = (WIDTHS[:, None, None, None] / 64.0) ** updates[:, None, :] * (1 + 0.01 * np.cos(seeds))[:, None]
    variables = {
        "loss": ((*dims, "time"), loss),
        "loss_at_end": (dims, unit / end),
        "end_time": (dims, end),
        "layers.update_at_end": ((*dims, "layers.update[1]"), update),
        "status": (dims, np.full(unit.shape, "stopped" if reached else "completed")),
    }
    return xarray.Dataset(variables, {"width": WIDTHS, "scheme": NAMES, "seed": seeds, "time": times})


def test_the_time_to_a_level_is_that_of_the_stop_and_runs_that_never_get_there_have_none():
    np.testing.assert_array_equal(FLOW.derive(made())["when"], made()["end_time"])
    assert np.isnan(FLOW.derive(made(reached=False))["when"]).all()


def test_each_claim_fails_with_its_law():
    verdicts = lambda dataset: [claim.holds for claim in FLOW.judge(dataset)]
    times, updates = [True, True, None, True], [True, True, None, None]
    assert verdicts(made()) == [*times, *updates]
    assert verdicts(made(slower=0.5)) == [False, False, None, False, *updates]
    assert verdicts(made(tilt=0.5)) == [*times, False, False, None, None]
    assert verdicts(made(reached=False)) == [None, None, None, None, *updates]


def test_plain_flow_has_the_path_of_sp():
    assert powers_at_level(PLAIN) == pytest.approx((-1.5, -0.5, 0))
    widths = (16, 8, 8, 10)
    ratio = np.array(SCHEMES[PLAIN].effective(widths).mobility) / np.array(nf.nets.SP().effective(widths).mobility)
    np.testing.assert_allclose(ratio, 8, rtol=1e-12)


def test_sizes_are_looked_at_where_the_loss_is_down():
    (net, _), data = network(jax.random.key(0), shape_of(8), "tanh", [nf.nets.Spectral()], 0), task()
    moved = net.with_weights([1.1 * W for W in net.weights])
    loss = nf.measure.loss(moved, data)
    above, below = (Reached(LayerNorms(net), loss * factor)(moved, data) for factor in (0.9, 1.1))
    assert all(jnp.isnan(value).all() for value in above.values())
    expected = LayerNorms(net)(moved, data)
    assert all(np.allclose(below[name], expected[name], rtol=1e-12) for name in expected)


def test_the_figure_is_drawn(tmp_path):
    sheet = FLOW.figure(made())
    sheet.savefig(tmp_path / "figure.png")
    labels = {text.get_text() for text in sheet.legends[0].get_texts()}
    plt.close(sheet)
    assert labels == {*NAMES, "theory", "at $t=0$"}
