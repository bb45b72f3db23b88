"""Measurements of a network on data; each is an observable `(net, data) -> array`."""

from .agop import agop as agop
from .agop import agop_factor as agop_factor
from .agop import preactivation_agop as preactivation_agop
from .alignment import Alignment as Alignment
from .alignment import alignment as alignment
from .balance import balance as balance
from .exponent import ExponentFit as ExponentFit
from .exponent import fit_exponent as fit_exponent
from .loss import loss as loss
from .nfm import nfm as nfm
from .sharpness import Sharpness as Sharpness
