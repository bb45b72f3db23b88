"""The spectral condition of feature learning: which initial weights, learning rates and optimizers satisfy it."""

from ..study import Study
from .adam_flow import ADAM_FLOW
from .flow import FLOW
from .norms import NORMS
from .transfer import TRANSFER
from .updates import UPDATES

spectral_condition = Study(
    name="spectral",
    source="Yang, Simon & Bernstein 2023, A Spectral Condition for Feature Learning",
    experiments=(NORMS, UPDATES, TRANSFER, FLOW, ADAM_FLOW),
)
