"""Rich features: across widths, parametrizations and data, and against infinite width."""

from ..study import Study
from .features import FEATURES
from .infinite_width import INFINITE_WIDTH
from .rich_data import RICH_DATA

rich_features = Study(
    name="rich-features",
    source=(
        "Chen, Yang, Zhao & Gu 2025, Global Convergence and Rich Feature Learning in L-Layer Infinite-Width Neural "
        "Networks under muP Parametrization"
    ),
    experiments=(FEATURES, RICH_DATA, INFINITE_WIDTH),
)
