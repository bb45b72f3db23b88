"""One function over many settings: grids, batched runs, and a store that loses nothing."""

from .grid import Grid as Grid
from .grid import batched as batched
from .grid import looped as looped
from .grid import zipped as zipped
from .sweep import SweepInterrupted as SweepInterrupted
from .sweep import load_sweep as load_sweep
from .sweep import sweep as sweep
