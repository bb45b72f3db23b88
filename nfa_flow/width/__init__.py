"""What changes with the width of a network: powers of the width, limits, and the promises of a parametrization."""

from .coordinate_check import CoordinateCheck as CoordinateCheck
from .coordinate_check import Scaling as Scaling
from .coordinate_check import coordinate_check as coordinate_check
from .coordinates import Coordinates as Coordinates
from .fits import WidthExponent as WidthExponent
from .fits import WidthLimit as WidthLimit
from .fits import width_exponent as width_exponent
from .fits import width_limit as width_limit
