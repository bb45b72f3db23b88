"""Best learning rates are found between those tried, and the claims tell whether they move with the width."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray

from nfa_flow.studies.spectral.transfer import CASES, POWERS, TRANSFER, best_rates, losses

NAMES, WIDTHS = list(CASES), np.array([64, 128, 256])
OCTAVES = np.arange(-4.0, 2.1, 0.5)


def made(*, powers, bend=0.1, failed=None):
    """Losses that are parabolas in logarithms, with the best rate 1.1 of the case's own at width 64."""
    seeds = np.arange(8)
    best = np.log2(1.1) + np.array([powers[name] for name in NAMES]) * np.log2(WIDTHS / 64)[:, None]
    best = best[:, :, None] + 0.01 * np.cos(seeds)
    loss = np.exp(-3 + bend * (OCTAVES[:, None] - best[:, :, None, :]) ** 2)
    dims = ("width", "count", "case", "octave", "seed")
    status = np.full(loss[:, None].shape, "completed", object)
    if failed is not None:
        status[..., OCTAVES == failed, :] = "diverged"
        loss = np.where(OCTAVES[:, None] == failed, np.nan, loss)
    start = np.ones((*loss[:, None].shape, 1))
    variables = {
        "loss_at_end": (dims, loss[:, None]),
        "loss": ((*dims, "time"), start),
        "status": (dims, status),
    }
    return xarray.Dataset(variables, {"width": WIDTHS, "case": NAMES, "octave": OCTAVES, "seed": seeds})


STAYS = dict.fromkeys(NAMES, 0.0)
AS_PROMISED = {name: power or 0.0 for name, power in POWERS.items()}


def test_the_vertex_of_a_parabola_is_found_between_the_rates():
    runs = made(powers=STAYS).isel(count=0).sel(case="GD, NTP")
    expected = 1.1 * CASES["GD, NTP"].rate * 2 ** (0.01 * np.cos(np.arange(8)))
    np.testing.assert_allclose(best_rates(runs, "GD, NTP").values, np.broadcast_to(expected, (3, 8)), rtol=1e-9)


def test_the_best_rate_is_unknown_where_it_is_the_last_one_tried():
    runs = made(powers=dict.fromkeys(NAMES, 2.0)).isel(count=0).sel(case="normalized")
    assert np.isnan(best_rates(runs, "normalized").sel(width=256)).all()
    assert np.isfinite(best_rates(runs, "normalized").sel(width=64)).all()
    claim = TRANSFER.judge(made(powers=dict.fromkeys(NAMES, 2.0)))[NAMES.index("normalized")]
    assert claim.holds is None and claim.measured.startswith("undefined")


def test_runs_that_blow_up_are_never_best():
    runs = made(powers=STAYS, failed=0.0).isel(count=0).sel(case="Muon")
    assert np.isinf(losses(runs).sel(octave=0.0)).all()
    best = best_rates(runs, "Muon").values / CASES["Muon"].rate
    assert ((np.abs(np.log2(best)) >= 0.25) & (np.abs(np.log2(best)) <= 0.75)).all()


def test_the_claims_fail_where_the_best_rate_stays_or_moves_against_theory():
    verdicts = lambda powers: [claim.holds for claim in TRANSFER.judge(made(powers=powers))][: len(NAMES)]
    judged = [None if POWERS[name] is None else True for name in NAMES]
    assert verdicts(AS_PROMISED) == judged
    stays = [None if power is None else power == 0 for power in POWERS.values()]
    assert verdicts(STAYS) == stays
    moves = [None if power is None else power != 0 for power in POWERS.values()]
    assert verdicts(dict.fromkeys(NAMES, -1.0)) == moves


def test_the_report_tells_what_the_narrow_network_s_rate_costs_the_wide_one():
    reports = {claim.statement: claim for claim in TRANSFER.judge(made(powers=AS_PROMISED))[len(NAMES) :]}
    # The best rates tried are at octaves 0 and −2, the vertices at log₂ 1.1 = .1375 from there: e^{−3 + .1 · 1.8625²}.
    bad = reports["GD, SP, one rate: the best rate of n = 64 on n = 256"].measured
    assert bad == "loss 0.07 (0.07–0.071) of the start, at its own best rate 0.05 (0.05–0.05)"
    good = reports["GD, Spectral: the best rate of n = 64 on n = 256"].measured
    assert good == "loss 0.05 (0.05–0.05) of the start, at its own best rate 0.05 (0.05–0.05)"


def test_the_figure_has_a_panel_per_case_and_one_of_best_rates(tmp_path):
    sheet = TRANSFER.figure(made(powers=AS_PROMISED))
    sheet.savefig(tmp_path / "figure.png")
    titles = [ax.get_title() for ax in sheet.axes]
    plt.close(sheet)
    assert titles == [*NAMES, "best rates"]


@pytest.mark.parametrize("size", ["quick", "full"])
def test_the_grids_have_every_rate_that_the_slope_needs(size):
    axes = {axis.name: axis for axis in TRANSFER.grid(size).axes}
    widths, octaves = axes["width"].values, axes["octave"].values
    # The best rate of the widest networks is lower by as many octaves as they are wider.
    assert octaves[0] < -np.log2(widths[-1] / widths[0]) and octaves[-1] > 1
    assert len(axes["seed"].values) >= 8
