"""The three sizes of every experiment: what the smaller ones leave out, and that the tiny one runs and is drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import nfa_flow as nf
from nfa_flow.studies.judgments import Judgment

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
def test_claims_name_settings_that_the_full_grid_has(experiment):
    """A claim about settings that are not there is left out, which a misspelled one must not be."""
    known = experiment.grid("full").dimensions
    for judgment in experiment.claims.values():
        if isinstance(judgment, Judgment):
            for dim, value in judgment.of.items():
                if dim in known and not callable(value):
                    assert set(np.atleast_1d(np.array(value, object))) <= set(known[dim]), (experiment.name, dim, value)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_tiny_study_runs_draws_and_judges(study, tmp_path):
    results = study.run(tmp_path, size="tiny", progress=False)
    assert list(results) == [each.name for each in study.experiments]
    assert {name for name, _ in study.claims(results)} == set(results)
    for name, dataset in results.items():
        sheet = study[name].figure(dataset)
        assert sheet.axes and all(ax.has_data() for ax in sheet.axes), name
        plt.close(sheet)
