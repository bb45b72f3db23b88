"""The Neural Feature Ansatz, settled: exact flow against optimisers, on synthetic and on real data."""

from ..study import Study
from .counterexample import COUNTEREXAMPLE
from .depth import DEPTH
from .initialisation import INITIALISATION
from .label_noise import LABEL_NOISE
from .lambda_balanced import LAMBDA_BALANCED
from .random_relu import RANDOM_RELU
from .step_size import STEP_SIZE
from .weight_decay import WEIGHT_DECAY

neural_feature_ansatz = Study(
    name="nfa",
    source="Tansley, Massart & Cartis 2026, On the Neural Feature Ansatz for Deep Neural Networks",
    experiments=(
        DEPTH,
        STEP_SIZE,
        WEIGHT_DECAY,
        LAMBDA_BALANCED,
        INITIALISATION,
        LABEL_NOISE,
        COUNTEREXAMPLE,
        RANDOM_RELU,
    ),
)
