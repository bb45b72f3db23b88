"""Methods of training with one signature: the exact gradient flow, optimizers by name, and no training at all."""

from .methods import OPTIMIZERS as OPTIMIZERS
from .methods import Descent as Descent
from .methods import ExactFlow as ExactFlow
from .methods import FlowOf as FlowOf
from .methods import Optimizer as Optimizer
from .methods import Rates as Rates
from .methods import Untrained as Untrained
from .methods import scale_layers as scale_layers
