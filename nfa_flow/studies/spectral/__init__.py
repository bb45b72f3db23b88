"""The spectral condition: what scales with width as feature learning needs it, under which start, rates and updates."""

from ..study import Study
from .flow import FLOW
from .norms import NORMS
from .transfer import TRANSFER
from .updates import UPDATES

spectral_condition = Study(
    name="spectral",
    source="Yang, Simon & Bernstein 2023, A Spectral Condition for Feature Learning",
    experiments=(NORMS, UPDATES, TRANSFER, FLOW),
)
