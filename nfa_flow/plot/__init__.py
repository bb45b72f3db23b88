"""Figures. Every function draws its argument and returns matplotlib's own objects."""

from .at_end import at_end as at_end
from .bands import bands as bands
from .bands import sweep_overview as sweep_overview
from .coordinate_check import coordinate_check as coordinate_check
from .spectra import spectrum as spectrum
from .trajectories import observable as observable
from .trajectories import overview as overview
