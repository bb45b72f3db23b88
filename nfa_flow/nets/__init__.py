"""Networks, their initial weights and their parametrizations."""

from .activations import ACTIVATIONS as ACTIVATIONS
from .initialization import AbstractInitialization as AbstractInitialization
from .initialization import Balanced as Balanced
from .initialization import FanInUniform as FanInUniform
from .initialization import Gaussian as Gaussian
from .initialization import LambdaBalanced as LambdaBalanced
from .initialization import Orthogonal as Orthogonal
from .mlp import MLP as MLP
from .parametrization import ABC as ABC
from .parametrization import AbstractParametrization as AbstractParametrization
from .parametrization import Effective as Effective
from .parametrization_schemes import NTP as NTP
from .parametrization_schemes import PARAMETRIZATIONS as PARAMETRIZATIONS
from .parametrization_schemes import SP as SP
from .parametrization_schemes import MeanField as MeanField
from .parametrization_schemes import Spectral as Spectral
from .parametrization_schemes import muP as muP
from .scale_by_parametrization import scale_by_parametrization as scale_by_parametrization
from .spectral_normalization import normalize_by_spectral_norm as normalize_by_spectral_norm
from .with_state import WithState as WithState
