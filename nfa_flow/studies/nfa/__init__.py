"""The Neural Feature Ansatz, settled: exact flow against optimisers, on synthetic and on real data."""

from ..study import Study
from .counterexample import COUNTEREXAMPLE
from .depth import DEPTH
from .random_relu import RANDOM_RELU
from .step_size import STEP_SIZE
from .weight_decay import WEIGHT_DECAY

neural_feature_ansatz = Study(
    name="nfa",
    source="Tansley, Massart & Cartis 2026, On the Neural Feature Ansatz for Deep Neural Networks",
    experiments=(DEPTH, STEP_SIZE, WEIGHT_DECAY, COUNTEREXAMPLE, RANDOM_RELU),
)
