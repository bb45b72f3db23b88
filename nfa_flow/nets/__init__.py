"""Networks and how they start."""

from .activations import ACTIVATIONS as ACTIVATIONS
from .initialisation import AbstractInitialisation as AbstractInitialisation
from .initialisation import Balanced as Balanced
from .initialisation import FanInUniform as FanInUniform
from .initialisation import Gaussian as Gaussian
from .initialisation import LambdaBalanced as LambdaBalanced
from .initialisation import Orthogonal as Orthogonal
from .mlp import MLP as MLP
from .parametrisation import ABC as ABC
from .parametrisation import AbstractParametrization as AbstractParametrization
from .parametrisation import Effective as Effective
from .parametrisation_schemes import NTP as NTP
from .parametrisation_schemes import PARAMETRIZATIONS as PARAMETRIZATIONS
from .parametrisation_schemes import SP as SP
from .parametrisation_schemes import MeanField as MeanField
from .parametrisation_schemes import Spectral as Spectral
from .parametrisation_schemes import muP as muP
from .scale_by_parametrization import scale_by_parametrization as scale_by_parametrization
