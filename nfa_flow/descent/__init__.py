"""Training in steps, with optax optimizers."""

from .gradient_descent import gradient_descent as gradient_descent
