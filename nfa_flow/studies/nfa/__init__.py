"""The Neural Feature Ansatz: exact flow against optimizers, on synthetic and on real data."""

from ..study import Study
from .conventions import CONVENTIONS
from .counterexample import COUNTEREXAMPLE
from .depth import DEPTH
from .early_alignment import EARLY_ALIGNMENT
from .initialization import INITIALIZATION
from .label_noise import LABEL_NOISE
from .lambda_balanced import LAMBDA_BALANCED
from .linear_layers import LINEAR_LAYERS
from .optimizer_flows import OPTIMIZER_FLOWS
from .random_relu import RANDOM_RELU
from .real_data import REAL_DATA
from .relu_digits import RELU_DIGITS
from .step_size import STEP_SIZE
from .weight_decay import WEIGHT_DECAY

neural_feature_ansatz = Study(
    name="nfa",
    source="Tansley, Massart & Cartis 2026, On the Neural Feature Ansatz for Deep Neural Networks",
    experiments=(
        DEPTH,
        STEP_SIZE,
        OPTIMIZER_FLOWS,
        WEIGHT_DECAY,
        LAMBDA_BALANCED,
        INITIALIZATION,
        LABEL_NOISE,
        LINEAR_LAYERS,
        COUNTEREXAMPLE,
        RANDOM_RELU,
        EARLY_ALIGNMENT,
        REAL_DATA,
        RELU_DIGITS,
        CONVENTIONS,
    ),
)
