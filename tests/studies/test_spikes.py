"""What the experiments on one gradient step say of runs that keep the laws and of runs that break them."""

import matplotlib.pyplot as plt
import numpy as np
import xarray

from nfa_flow.studies.spikes import predictions
from nfa_flow.studies.spikes.common import LOSSES, SINGULAR_VALUES, with_spikes
from nfa_flow.studies.spikes.free_spikes import FREE_SPIKES
from nfa_flow.studies.spikes.gradient import GRADIENT, limits
from nfa_flow.studies.spikes.ridge_error import RIDGE_ERROR, TEACHERS
from nfa_flow.studies.spikes.spectra import SPECTRA
from nfa_flow.studies.spikes.spikes import SPIKES

N, SEEDS, ALPHAS = 500, 8, (0.36, 0.42)
JITTER = 1 + 0.01 * np.linspace(-1, 1, SEEDS)


def verdicts(experiment, dataset):
    return [claim.holds for claim in experiment.judge(dataset)]


def made(variables, **settings):
    """Finished runs over these settings and the seeds; variables are name → (further dimensions, values)."""
    coords = settings | {"seed": np.arange(SEEDS)}
    values = {name: ((*coords, *more), np.asarray(each)) for name, (more, each) in variables.items()}
    status = (tuple(coords), np.full([len(each) for each in coords.values()], "completed"))
    return xarray.Dataset(values | {"status": status}, coords)


def spectra(scale=1.0, more=()):
    """Singular values of each α and seed: the predicted spikes, scaled, and more of them, above a bulk without gaps."""
    bulk = np.linspace(predictions.bulk_edge("relu"), 0.1, 200)
    row = lambda alpha: [*(scale * predictions.spikes(N, "relu", alpha)), *more, *bulk][:200]
    return np.array([[np.sort(row(alpha))[::-1] * each for each in JITTER] for alpha in ALPHAS])[None]


def of_spectra(values, **settings):
    """Runs of the experiments on singular values."""
    along = ("features.singular_values[1]",)
    overlap = (("features.overlap[1]",), np.ones((*values.shape[:-1], 2)))
    before = (("before[1]",), np.linspace(predictions.bulk_edge("relu"), 0.1, 200) * np.ones((*values.shape[:-1], 1)))
    variables = {SINGULAR_VALUES: (along, values), "features.overlap_at_end": overlap, "before_at_end": before}
    return made(variables, samples=[N], **settings)


def test_spikes_are_judged_by_where_they_are_predicted():
    of = lambda **options: verdicts(SPECTRA, of_spectra(spectra(**options), alpha=list(ALPHAS)))
    assert of() == [True] * 3
    assert of(scale=1.1) == [True, False, False]
    dataset = of_spectra(spectra(), alpha=list(ALPHAS))
    assert verdicts(SPECTRA, dataset.assign(before_at_end=1.1 * dataset["before_at_end"]))[0] is False


def test_spikes_are_counted():
    def of(**options):
        values = spectra(**options)[:, None]
        return verdicts(SPIKES, of_spectra(values, activation=["relu"], alpha=list(ALPHAS)))

    assert of() == [True, True, None]
    assert of(scale=1.1) == [False, True, None]
    assert of(more=(9.0, 7.0)) == [False, False, None]


def test_a_run_that_failed_counts_no_spikes_and_leaves_the_others_theirs():
    dataset = of_spectra(spectra(), alpha=list(ALPHAS))
    dataset[SINGULAR_VALUES][0, 0, 0] = np.nan
    counted = with_spikes(dataset, 1)["count"]
    assert np.isnan(counted[0, 0, 0]) and (counted[0, 0, 1:] == with_spikes(dataset, 1)["count"][0, 0, 1]).all()
    dataset["status"][0, 0, 0] = "diverged"
    assert verdicts(SPECTRA, dataset) == [None, None, True]
    plt.close(SPECTRA.figure(dataset))


def gradients(power=-0.5, **factors):
    """Gradients whose distance from rank one falls as a power of n, with factors on the limits of other parts."""
    n = np.array([200, 400, 800])
    sizes = {name: np.full(3, limit * factors.get(name, 1.0)) for name, limit in limits().items()}
    sizes["of_residuals"] = 0.3 * (n / 200) ** power
    ends = {f"gradient.{name}_at_end": ((), np.outer(each, JITTER)) for name, each in sizes.items()}
    return made(ends, samples=n)


def test_each_claim_on_the_gradient_fails_with_its_law():
    assert verdicts(GRADIENT, gradients()) == [True] * 6
    assert verdicts(GRADIENT, gradients(power=-0.3)) == [False, *[True] * 5]
    for place, name in enumerate(limits(), start=1):
        assert verdicts(GRADIENT, gradients(**{name: 1.2})) == [each != place for each in range(6)]


def losses_of_free_spikes(factor=1.0):
    """Losses that differ from their limits by a multiple of 1/n."""
    n = np.array([150, 300, 600])
    orders = ((), (1,), (1, 2))
    exact = np.array([predictions.limits(each, "relu", own_output=False) for each in orders])
    around = (1 + 10 / n)[:, None] + (JITTER - 1)
    values = {name: factor * around[..., None] * exact[:, i] for i, name in enumerate(LOSSES.values())}
    return made({f"losses.{name}_at_end": ((f"losses.{name}[1]",), each) for name, each in values.items()}, samples=n)


def test_losses_with_free_spikes_tend_to_their_limits():
    assert verdicts(FREE_SPIKES, losses_of_free_spikes()) == [True] * 6
    assert verdicts(FREE_SPIKES, losses_of_free_spikes(1.1)) == [False] * 6


def losses_after_a_step(start=1.0, gain=0.3):
    """Losses that begin at a multiple of the theory's, and of which a step takes something off."""
    names, alphas = list(TEACHERS), (-0.2, 0.42)
    exact = np.array([predictions.losses(N, "relu", -0.2, TEACHERS[name]) for name in names])
    both = np.stack([start * exact, start * exact * (1 - gain)], axis=1)  # teacher, alpha, loss
    values = both[None, :, None, :, None] * JITTER[:, None]
    ends = {f"{name}_at_end": ((), values[..., i]) for i, name in enumerate(LOSSES)}
    return made(ends, samples=[N], teacher=names, activation=["relu"], alpha=list(alphas))


def test_only_teachers_with_a_linear_part_are_learned():
    assert verdicts(RIDGE_ERROR, losses_after_a_step()) == [True, True, None, True, True, None, True, False, None]
    assert verdicts(RIDGE_ERROR, losses_after_a_step(gain=-0.01))[1::3] == [False, False, True]
    assert verdicts(RIDGE_ERROR, losses_after_a_step(start=1.1))[::3] == [False] * 3


def test_figures_draw():
    alphas = list(ALPHAS)
    for experiment, dataset in (
        (SPECTRA, of_spectra(spectra(), alpha=alphas)),
        (SPIKES, of_spectra(spectra()[:, None], activation=["relu"], alpha=alphas)),
        (GRADIENT, gradients()),
        (FREE_SPIKES, losses_of_free_spikes()),
        (RIDGE_ERROR, losses_after_a_step()),
    ):
        sheet = experiment.figure(dataset)
        assert all(ax.has_data() for ax in sheet.axes)
        plt.close(sheet)
