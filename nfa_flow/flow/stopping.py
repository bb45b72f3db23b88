"""Rules that end a flow early. Each compares a number with a bound after every accepted step."""

import abc

import equinox as eqx
from jaxtyping import Array, Bool, Float

from ..checks import require_number


class AbstractStop(eqx.Module):
    """A rule `(loss, gradient_norm) -> bool`, evaluated after every accepted step; it costs one gradient each time."""

    @abc.abstractmethod
    def __call__(self, loss: Float[Array, ""], gradient_norm: Float[Array, ""]) -> Bool[Array, ""]:
        """Whether to stop.

        **Arguments:** `loss`: the data loss ℒ, without weight decay; `gradient_norm`: ‖∇ℒ + λθ‖ over all parameters,
        which is the speed ‖dθ/dt‖ of the flow (with mobilities m it is the speed ‖m(∇ℒ + λθ)‖).
        """


class LossBelow(AbstractStop):
    """Stop when the data loss ℒ is at most `bound`."""

    bound: float | Float[Array, ""]

    def __check_init__(self):
        require_number("bound", self.bound, above=0)

    def __call__(self, loss: Float[Array, ""], gradient_norm: Float[Array, ""]) -> Bool[Array, ""]:
        return loss <= self.bound


class GradientNormBelow(AbstractStop):
    """Stop when the gradient norm ‖∇ℒ + λθ‖ is at most `bound`: near a critical point, to that accuracy."""

    bound: float | Float[Array, ""]

    def __check_init__(self):
        require_number("bound", self.bound, above=0)

    def __call__(self, loss: Float[Array, ""], gradient_norm: Float[Array, ""]) -> Bool[Array, ""]:
        return gradient_norm <= self.bound
