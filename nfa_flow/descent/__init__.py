"""Step-based training."""

from .gradient_descent import gradient_descent as gradient_descent
