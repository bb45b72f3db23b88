"""The three sizes of every experiment: what the smaller ones leave out, and that the tiny one runs and is drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.studies.judgments import Judgment
from nfa_flow.studies.rich_features.rich_data import CIFAR10

STUDIES = (
    nf.studies.neural_feature_ansatz,
    nf.studies.rich_features,
    nf.studies.spectral_condition,
    nf.studies.one_step_spikes,
)
EVERY = [pytest.param(each, id=each.name) for study in STUDIES for each in study.experiments]


@pytest.mark.parametrize("experiment", EVERY)
def test_smaller_sizes_have_fewer_runs_and_the_quick_one_eight_seeds(experiment):
    tiny, quick, full = (experiment.grid(size) for size in ("tiny", "quick", "full"))
    assert len(tiny) < len(quick) < len(full)
    assert len(quick.dimensions["seed"]) >= 8
    for name, labels in quick.dimensions.items():
        if isinstance(labels[0], str):
            assert set(labels) <= set(full.dimensions[name])


@pytest.mark.parametrize("experiment", EVERY)
def test_claims_name_settings_that_the_full_grid_has(experiment, monkeypatch):
    """A claim about settings that are not there is left out, which a misspelled one must not be."""
    monkeypatch.setenv(CIFAR10, "somewhere")
    known = experiment.grid("full").dimensions
    for judgment in experiment.claims.values():
        if isinstance(judgment, Judgment):
            for dim, value in judgment.of.items():
                if dim in known and not callable(value):
                    assert set(np.atleast_1d(np.array(value, object))) <= set(known[dim]), (experiment.name, dim, value)


@pytest.mark.parametrize(
    ("study", "name"), list(zip(STUDIES, ("step-size", "infinite-width", "transfer", "gradient"), strict=True))
)
def test_a_tiny_experiment_runs_and_is_judged_and_drawn(study, name, tmp_path):
    """One of each study; the quick studies are all run elsewhere."""
    dataset = study.run(tmp_path, size="tiny", only=[name], progress=False)[name]
    assert study[name].judge(dataset)
    sheet = study[name].figure(dataset)
    assert sheet.axes and all(ax.has_data() for ax in sheet.axes)
    plt.close(sheet)
