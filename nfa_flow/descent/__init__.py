"""Step-based training."""

from ..nets.spectral_normalization import normalize_by_spectral_norm as normalize_by_spectral_norm
from .gradient_descent import gradient_descent as gradient_descent
