"""The task, the shape of networks and the trainings that the experiments on the spectral condition share.

Trainings are selected by the index of a case, which JAX may trace, like parametrizations in `schemes`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ... import Dataset, nets
from ...data import digits, standardize
from ...nets import normalize_by_spectral_norm
from ...training import scale_layers
from ..held_out import split
from ..schemes import Place

INPUTS, OUTPUTS, SAMPLES = 16, 10, 64
LAYERS = ("input", "hidden", "read-out")

# Standard initial weights with one learning rate for all layers, for gradient descent and for Adam.
ONE_RATE = nets.ABC((0, 0, 0), (0, 0.5, 0.5), (0, 0, 0), name="SP, one rate")
ONE_RATE_ADAM = nets.ABC((0, 0, 0), (0, 0.5, 0.5), (0, 0, 0), rule="adam", name="SP, one rate")


def shape_of(width: int) -> tuple[int, ...]:
    """(inputs, two hidden widths, outputs)."""
    return (INPUTS, width, width, OUTPUTS)


def fans(width: int) -> list[tuple[int, int]]:
    """(fan_out, fan_in) of each layer."""
    return list(zip(shape_of(width)[1:], shape_of(width)[:-1], strict=True))


def task() -> Dataset:
    """Some handwritten digits of 4 × 4 pixels, each the mean of four; inputs and one-hot targets standardized."""
    images = digits()
    pixels = images.x.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, INPUTS)
    return split(standardize(Dataset(pixels, (images.y - 0.1) / 0.3)), SAMPLES)[0]


GD, ADAM, NORMALIZED, MUON = "GD", "Adam", "normalized", "Muon"
UPDATES: Mapping[str, optax.GradientTransformation] = {
    GD: optax.sgd(1.0),
    ADAM: optax.adam(1.0),
    NORMALIZED: optax.chain(normalize_by_spectral_norm(), optax.sgd(1.0)),
    # Its default layout of matrices is fan_in × fan_out; ours is fan_out × fan_in.
    MUON: optax.contrib.muon(1.0, muon_weight_dimension_numbers=optax.contrib.MuonDimensionNumbers(1, 0)),
}


class Case(NamedTuple):
    """Initial weights, the name of an optimizer of learning rate 1, and a learning rate; `rescaled`: see `factors`."""

    scheme: nets.AbstractParametrization
    update: str
    rate: float
    rescaled: bool = False

    def factors(self, width: int) -> tuple[float, ...]:
        """The factors of the updates of each layer; for gradient descent and Adam those of the parametrization.

        Normalized updates already have the size √(fan_out/fan_in). Those of Muon in optax have √max(1, fan_out/fan_in)
        and are rescaled to √(fan_out/fan_in) if `rescaled`.
        """
        if self.update in (GD, ADAM):
            return self.scheme.effective(shape_of(width)).mobility
        return tuple(min(1.0, fan_out / fan_in) ** 0.5 if self.rescaled else 1.0 for fan_out, fan_in in fans(width))


def optimizer(
    cases: Sequence[Case], width: int, place: Place, rate: float | Float[Array, ""] | None = None
) -> optax.GradientTransformation:
    """The optimizer of the case at this index, with its own learning rate or another one."""
    names = list(dict.fromkeys(case.update for case in cases))
    look_up = lambda rows: jnp.asarray(rows)[place]
    factors = look_up([case.factors(width) for case in cases])
    rate = look_up([case.rate for case in cases]) if rate is None else rate
    update = one_of(look_up([names.index(case.update) for case in cases]), [UPDATES[name] for name in names])
    return optax.chain(update, scale_layers(rate * factors))


def one_of(place: Place, options: Sequence[optax.GradientTransformation]) -> optax.GradientTransformation:
    """One of several transformations by its index, which may be traced; its state holds the states of all."""
    init = lambda params: tuple(option.init(params) for option in options)
    branches = lambda params: [partial(_updated_by, i, options, params) for i in range(len(options))]
    update = lambda updates, state, params=None: jax.lax.switch(place, branches(params), updates, state)
    return optax.GradientTransformation(init, update)


def _updated_by(
    i: int, options: Sequence[optax.GradientTransformation], params: Any, updates: Any, states: Any
) -> tuple[Any, Any]:
    updates, new = options[i].update(updates, states[i], params)
    return updates, (*states[:i], new, *states[i + 1 :])
