"""Theory for the setting of this study: spikes, and losses of ridge regression over E[y²]."""

import warnings
from functools import cache

import numpy as np
from jaxtyping import Float

from ... import theory
from ...one_step import sizes
from .common import NOISE, PENALTY, PHI, PSI, TEACHER

Losses = Float[np.ndarray, "2"]  # training and test loss


@cache
def expansion(function: str | theory.HermiteSeries) -> theory.Hermite:
    """The Hermite coefficients of an activation or a teacher."""
    return theory.hermite(function)


@cache
def direction_of(activation: str, teacher: theory.HermiteSeries = TEACHER) -> theory.GradientDirection:
    """The first gradient in the limit, including the network's own output and the scatter."""
    with warnings.catch_warnings():  # one teacher has no linear part, on purpose, which would be warned about
        warnings.simplefilter("ignore", UserWarning)
        return theory.gradient_direction(expansion(teacher), PHI, noise=NOISE, activation=expansion(activation))


def bulk_edge(activation: str) -> float:
    """The largest singular value before the step."""
    return theory.feature_bulk_edge(PHI, PSI, expansion(activation))


@cache
def spikes(samples: int, activation: str, alpha: float) -> Float[np.ndarray, " s"]:
    """The singular values outside the bulk after a step of size n^α."""
    direction = direction_of(activation)
    S = theory.spike_matrix(activation, samples**alpha, direction, sizes(samples, PHI, PSI).width)
    return theory.feature_outliers(S, PHI, PSI, expansion(activation), own=direction.own)


@cache
def losses(samples: int, activation: str, alpha: float, teacher: theory.HermiteSeries = TEACHER) -> Losses:
    """The losses with the spikes of a step of size n^α."""
    direction = direction_of(activation, teacher)
    S = theory.spike_matrix(activation, samples**alpha, direction, sizes(samples, PHI, PSI).width)
    given = PENALTY, PHI, PSI, expansion(activation), expansion(teacher)
    return _over_energy(theory.finite_ridge_losses(*given, S, direction, noise=NOISE), teacher)


@cache
def limits(
    orders: tuple[int, ...], activation: str, teacher: theory.HermiteSeries = TEACHER, *, own_output: bool = True
) -> Losses:
    """The losses with infinitely large spikes of these orders; `own_output`: whether β contains the net's output."""
    direction = direction_of(activation, teacher) if orders and own_output else None
    given = PENALTY, PHI, PSI, expansion(activation), expansion(teacher)
    return _over_energy(theory.ridge_losses(*given, noise=NOISE, orders=orders, direction=direction), teacher)


def linear_limits(teacher: theory.HermiteSeries) -> Losses:
    """The losses of ridge regression on the inputs."""
    return _over_energy(theory.linear_losses(PENALTY, PHI, expansion(teacher), noise=NOISE), teacher)


def _over_energy(losses: theory.RidgeLosses, teacher: theory.HermiteSeries) -> Losses:
    return np.array(losses) / (float(expansion(teacher).square) + NOISE**2)
