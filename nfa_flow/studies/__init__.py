"""Papers as runnable studies: experiments that are swept, stored, drawn, and compared with what is claimed."""

from .claims import Claim as Claim
from .claims import judged as judged
from .claims import reported as reported
from .experiment import Experiment as Experiment
from .nfa import neural_feature_ansatz as neural_feature_ansatz
from .rich_features import rich_features as rich_features
from .spectral import spectral_condition as spectral_condition
from .spikes import one_step_spikes as one_step_spikes
from .study import Study as Study
