"""The Neural Feature Ansatz, settled: exact flow against optimisers, on synthetic and on real data."""

from ..study import Study
from .depth import DEPTH
from .step_size import STEP_SIZE

neural_feature_ansatz = Study(
    name="nfa",
    source="Tansley, Massart & Cartis 2026, On the Neural Feature Ansatz for Deep Neural Networks",
    experiments=(DEPTH, STEP_SIZE),
)
