"""Measurements of a network on data; each is an observable `(net, data) -> array`."""

from .agop import agop as agop
from .agop import agop_factor as agop_factor
from .agop import preactivation_agop as preactivation_agop
from .agop_estimate import AgopEstimate as AgopEstimate
from .agop_estimate import agop_estimate as agop_estimate
from .alignment import Alignment as Alignment
from .alignment import alignment as alignment
from .balance import balance as balance
from .conventions import centered_nfa as centered_nfa
from .conventions import enfa as enfa
from .conventions import nfa_cosine_2022 as nfa_cosine_2022
from .conventions import nfa_of_depth as nfa_of_depth
from .conventions import nfa_off_diagonal_2024 as nfa_off_diagonal_2024
from .conventions import nfa_pearson_2024 as nfa_pearson_2024
from .conventions import uncentered_nfa as uncentered_nfa
from .exponent import ExponentFit as ExponentFit
from .exponent import fit_exponent as fit_exponent
from .loss import loss as loss
from .nfm import nfm as nfm
from .null import Null as Null
from .null import null_alignment as null_alignment
from .sharpness import Sharpness as Sharpness
