"""The smooth pieces of an objective: what it is where all its kinks are frozen, as functions of the raveled parameters.

A kink is an entry of a sample: its switching function h_{ie}(θ), of sample i and entry e of its program, such as a
pre-activation. On a piece every kink has a gate; some kinks *slide*: the flow stays on their surface h = 0, because the
velocity of either side points to it. There the flow has the velocity of least norm, the projection on the common
tangent of all these surfaces (Davis, Drusvyatskiy, Kakade & Lee 2020: it is a curve of the subgradient flow).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from ...problem.objective import SampleObjective
from .gates import count_gates, gated

_JITTER = 1e-14  # of the diagonal of the Gram matrix of unit normals, which a refinement removes


class Piece(eqx.Module):
    """Which piece: the side of every kink, and which of them slide.

    A list of at most "c" kinks holds those that touch: kinks that slide, and others whose surface is the same, as those
    of a repeated sample. The gates of kinks that slide have no meaning: they are as on one side of the surface.
    """

    gates: Bool[Array, "n k"]
    touching: Int[Array, " c"]  # flat positions; n·k where there is none
    slides: Bool[Array, " c"]  # of kinks with the same surface, one


class Contact(NamedTuple):
    """The kinks of a list: their unit normals, and which of them have one surface."""

    sample: Int[Array, " c"]
    entry: Int[Array, " c"]
    is_used: Bool[Array, " c"]
    normal: Float[Array, "c p"]  # of length 1, zero where there is none
    length: Float[Array, " c"]
    leader: Int[Array, " c"]  # the first in the list with the same surface
    is_along: Bool[Array, " c"]  # whether its positive side is that of its leader

    def members(self) -> Bool[Array, "c c"]:
        """For every leader (row) which kinks have its surface."""
        return (self.leader[None, :] == jnp.arange(len(self.leader))[:, None]) & self.is_used

    @property
    def leads(self) -> Bool[Array, " c"]:
        return self.is_used & (self.leader == jnp.arange(len(self.leader))) & (self.length > 0)


class Pieces:
    """An objective of samples, piece by piece. Made anew in each trace, from `parameters` for their structure only."""

    def __init__(self, objective: SampleObjective, parameters: Any):
        self._objective = objective
        y, self.unravel = ravel_pytree(parameters)
        data = objective.data
        self._weights = jnp.full(data.samples, 1 / data.samples, y.dtype) if data.weight is None else data.weight
        sizes = count_gates(self._loss, parameters, data.x[0], data.y[0])
        self.shape = data.samples, sum(sizes)
        self.levels = len(sizes)
        self.level = np.repeat(np.arange(len(sizes)), sizes)  # of every entry: later ones depend on earlier ones

    def _loss(self, parameters: Any, x: Array, target: Array) -> Array:
        return self._objective.loss_function(self._objective.net(parameters)(x), target)

    def _sample(self, y: Float[Array, " p"], gates: Float[Array, " k"], i: Any) -> tuple[Array, Float[Array, " k"]]:
        """The weighted loss of sample `i`, and its switching functions."""
        position = 0

        def gate(h: Array) -> Array:
            nonlocal position
            position += h.size
            return gates[position - h.size : position].reshape(h.shape)

        data = self._objective.data
        loss, switches = gated(self._loss, gate, self.unravel(y), data.x[i], data.y[i])
        return self._weights[i] * loss, jnp.concatenate([h.ravel() for h in switches])

    def gradient(self, y: Float[Array, " p"], gates: Float[Array, "n k"]) -> Float[Array, " p"]:
        """∇ℒ + λθ."""
        everything = jnp.arange(self.shape[0])
        loss = lambda y: jnp.sum(jax.vmap(lambda g, i: self._sample(y, g, i)[0])(gates, everything))
        gradient = self.unravel(jax.grad(loss)(y))
        return ravel_pytree(self._objective.with_decay(gradient, self.unravel(y)))[0]

    def switches(self, y: Float[Array, " p"], gates: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """The switching functions of all kinks."""
        return jax.vmap(lambda g, i: self._sample(y, g, i)[1])(gates, jnp.arange(self.shape[0]))

    def switch(self, y: Float[Array, " p"], gates: Float[Array, "n k"], at: Int[Array, ""]) -> Float[Array, ""]:
        """One of them, at the cost of one sample."""
        i, entry = jnp.divmod(at, self.shape[1])
        return self._sample(y, gates[i], i)[1][entry]

    def sample_gradients(
        self, y: Float[Array, " p"], gates: Float[Array, "c k"], samples: Int[Array, " c"]
    ) -> Float[Array, "c p"]:
        """The gradient of the weighted loss of each of these samples."""
        return jax.vmap(lambda g, i: jax.grad(lambda y: self._sample(y, g, i)[0])(y))(gates, samples)

    def normals(
        self, y: Float[Array, " p"], gates: Float[Array, "n k"], sample: Int[Array, " c"], entry: Int[Array, " c"]
    ) -> Float[Array, "c p"]:
        """∇h of these kinks."""
        of = lambda g, i, e: jax.grad(lambda y: self._sample(y, g, i)[1][e])(y)
        return jax.vmap(of)(gates[sample], sample, entry)

    def contact(
        self, y: Float[Array, " p"], gates: Float[Array, "n k"], touching: Int[Array, " c"], *, grouped: bool = True
    ) -> Contact:
        """The list of kinks at `y`; not `grouped`: as if no two had one surface."""
        is_used = touching < self.shape[0] * self.shape[1]
        sample, entry = jnp.divmod(jnp.where(is_used, touching, 0), self.shape[1])
        normal = jnp.where(is_used[:, None], self.normals(y, gates, sample, entry), 0)
        length = jnp.linalg.norm(normal, axis=1)
        normal = normal / jnp.where(length == 0, 1, length)[:, None]
        leader, is_along = jnp.arange(len(touching)), jnp.ones_like(is_used)
        if grouped:
            cosines = normal @ normal.T
            same = jnp.abs(cosines) > 1 - 1e4 * jnp.finfo(y.dtype).eps
            leader = jnp.where(length > 0, jnp.argmax(same, axis=1), leader)
            is_along = jnp.take_along_axis(cosines, leader[:, None], axis=1)[:, 0] >= 0
        return Contact(sample, entry, is_used, normal, length, leader, is_along)

    def velocity(self, y: Float[Array, " p"], piece: Piece) -> Float[Array, " p"]:
        """−(∇ℒ + λθ) on a piece, projected on the surfaces on which the flow slides."""
        gates = piece.gates.astype(y.dtype)
        plain = -self.gradient(y, gates)

        def projected() -> Array:
            contact = self.contact(y, gates, piece.touching, grouped=False)
            return tangential(contact.normal, piece.slides, plain)[0]

        return jax.lax.cond(jnp.any(piece.slides), projected, lambda: plain)

    def on_surfaces(self, y: Float[Array, " p"], piece: Piece) -> Float[Array, " p"]:
        """The parameters with what integration has left of h on sliding kinks removed, by a step of Gauss-Newton."""
        gates = piece.gates.astype(y.dtype)

        def corrected() -> Array:
            contact = self.contact(y, gates, piece.touching, grouped=False)
            h = jax.vmap(lambda g, i, e: self._sample(y, g, i)[1][e])(gates[contact.sample], contact.sample, contact.entry)
            excess = jnp.where(piece.slides, h / jnp.where(contact.length == 0, 1, contact.length), 0)
            normal = jnp.where(piece.slides[:, None], contact.normal, 0)
            return y - normal.T @ _solve(normal, piece.slides, excess)

        return jax.lax.cond(jnp.any(piece.slides), corrected, lambda: y)


def tangential(
    normal: Float[Array, "c p"], slides: Bool[Array, " c"], vector: Float[Array, " p"]
) -> tuple[Float[Array, " p"], Float[Array, " c"]]:
    """The projection of a vector on the tangent of all sliding surfaces, and what it has lost of each unit normal."""
    normal = jnp.where(slides[:, None], normal, 0)
    pull = _solve(normal, slides, normal @ vector)
    return vector - normal.T @ pull, pull


def _solve(normal: Float[Array, "c p"], slides: Bool[Array, " c"], right: Float[Array, " c"]) -> Float[Array, " c"]:
    """G⁻¹ r for the Gram matrix G of these rows; of dependent rows, a solution that is as good."""
    gram = normal @ normal.T + jnp.diag(jnp.where(slides, 0, 1).astype(normal.dtype))
    factor = jax.scipy.linalg.cho_factor(gram + _JITTER * jnp.eye(len(gram), dtype=gram.dtype))
    first = jax.scipy.linalg.cho_solve(factor, right)
    return first + jax.scipy.linalg.cho_solve(factor, right - gram @ first)
