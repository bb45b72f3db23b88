"""One gradient step and its spikes: predictions in closed form against simulations."""

from ..study import Study
from .digits import DIGITS
from .free_spikes import FREE_SPIKES
from .gradient import GRADIENT
from .ridge_error import RIDGE_ERROR
from .spectra import SPECTRA
from .spikes import SPIKES
from .staircase import STAIRCASE
from .steps import STEPS

one_step_spikes = Study(
    name="spikes",
    source=(
        "Moniri, Lee, Hassani & Dobriban 2024, A Theory of Non-Linear Feature Learning with One Gradient Step in "
        "Two-Layer Neural Networks"
    ),
    experiments=(GRADIENT, SPECTRA, SPIKES, FREE_SPIKES, RIDGE_ERROR, STAIRCASE, STEPS, DIGITS),
)
