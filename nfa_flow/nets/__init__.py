"""Networks and how they start."""

from .activations import ACTIVATIONS as ACTIVATIONS
from .initialisation import AbstractInitialisation as AbstractInitialisation
from .initialisation import Balanced as Balanced
from .initialisation import FanInUniform as FanInUniform
from .initialisation import Gaussian as Gaussian
from .initialisation import LambdaBalanced as LambdaBalanced
from .initialisation import Orthogonal as Orthogonal
from .mlp import MLP as MLP
