"""The smooth pieces of an objective: what it is where all its kinks are frozen, as functions of the raveled parameters.

A kink is an entry of a sample: its switching function h_{ie}(θ), of sample i and entry e of its program, such as a
pre-activation. On a piece every kink has a gate; some kinks *slide*: the flow stays on their surface h = 0, because the
velocity of either side points to it. There the flow has the velocity of least norm, the projection on the common
tangent of all these surfaces (Davis, Drusvyatskiy, Kakade & Lee 2020: it is a curve of the subgradient flow).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt

from ...problem.losses import LOSSES
from ...problem.objective import AbstractObjective, SampleObjective, TotalObjective
from ...problem.trained import one_of
from .find import loss_has_kinks
from .gates import CannotGate, count_gates, frozen, gated

_BLOCK = 16  # kinks of a list at a time
_FIRST = np.uint32(0)  # unsigned, as all places: JAX need not ask whether they count from the end
_MOST_ITERATIONS = 20  # of conjugate gradients, which need a few
_JITTER = 50  # roundings, of the diagonal of the Gram matrix of unit normals, which a refinement removes


class Piece(eqx.Module):
    """Which piece: the side of every kink, and which of them slide.

    A list of at most "c" kinks, the flat positions of which increase, holds those that slide, and others whose surface
    is the same, as those of a repeated sample. The gates of kinks that slide have no meaning: they are as on one side
    of the surface.
    """

    gates: Bool[Array, "n k"]
    touching: Int[Array, " c"]  # after the last one, n·k
    slides: Bool[Array, " c"]  # of kinks with the same surface, one: their leader
    leader: Int[Array, " c"]
    is_along: Bool[Array, " c"]  # whether the positive side of a kink is that of its leader
    factor: Float[Array, "c c"]  # of the Gram matrix of the normals of the leaders where the piece began (`factor_of`)


class Contact(NamedTuple):
    """The kinks of a list at one point: their unit normals, and which of them have one surface."""

    touching: Int[Array, " c"]
    sample: UInt[Array, " c"]
    entry: UInt[Array, " c"]
    is_used: Bool[Array, " c"]
    normal: Float[Array, "c p"]  # of length 1, zero where there is none
    length: Float[Array, " c"]
    leader: Int[Array, " c"]  # the first in the list with the same surface
    is_along: Bool[Array, " c"]

    def members(self) -> Bool[Array, "c c"]:
        """For every leader (row) which kinks have its surface."""
        return (self.leader[None, :] == jnp.arange(len(self.leader))[:, None]) & self.is_used

    @property
    def leads(self) -> Bool[Array, " c"]:
        return self.is_used & (self.leader == jnp.arange(len(self.leader))) & (self.length > 0)

    def along_normals(self, vector: Float[Array, " p"]) -> Float[Array, " c"]:
        """The components of a vector along all unit normals."""
        return in_blocks(lambda at: [block_of(self.normal, at) @ vector], self.is_used, vector.dtype, ())[0]

    def combined(self, weights: Float[Array, " c"]) -> Float[Array, " p"]:
        """The sum of all unit normals with these weights."""

        def add(block: UInt[Array, ""], total: Array) -> Array:
            return total + block_of(weights, block * _BLOCK) @ block_of(self.normal, block * _BLOCK)

        return jax.lax.fori_loop(_FIRST, _blocks(self.is_used), add, jnp.zeros_like(self.normal[0]))

    def tangential(
        self, slides: Bool[Array, " c"], factor: Float[Array, "c c"], vector: Float[Array, " p"]
    ) -> tuple[Float[Array, " p"], Float[Array, " c"]]:
        """The projection of a vector on the tangent of all sliding surfaces, and what it lost of each unit normal."""
        pull = self.least_squares(slides, factor, self.along_normals(vector))
        return vector - self.combined(pull), pull

    def least_squares(
        self, slides: Bool[Array, " c"], factor: Float[Array, "c c"], right: Float[Array, " c"]
    ) -> Float[Array, " c"]:
        """x with N Nᵀ x = r for the unit normals N that slide, and 0 for others.

        By conjugate gradients, preconditioned with the Cholesky factor of nearly the same matrix.
        """
        right = jnp.where(slides, right, 0)
        precondition = lambda residual: jax.scipy.linalg.cho_solve((factor, True), residual)
        enough = jnp.finfo(right.dtype).eps ** 2 * (right @ right)

        def closer(carry: tuple[Array, ...]) -> tuple[Array, ...]:
            """The first pass finds the direction only."""
            x, residual, direction, energy, count = carry
            image = jnp.where(slides, self.along_normals(self.combined(direction)), 0)
            curvature = direction @ image
            step = energy / jnp.where(curvature > 0, curvature, 1)
            x, residual = x + step * direction, residual - step * image
            solved = precondition(residual)
            new = residual @ solved
            return x, residual, solved + new / jnp.where(energy > 0, energy, 1) * direction, new, count + 1

        nothing = jnp.zeros_like(right)
        start = (nothing, right, nothing, jnp.zeros_like(enough), jnp.zeros((), jnp.int32))
        return jax.lax.while_loop(lambda c: (c[1] @ c[1] > enough) & (c[4] <= _MOST_ITERATIONS), closer, start)[0]


def count_kinks(objective: AbstractObjective, parameters: Any) -> int | str:
    """The number of kinks of all samples; a word for those that cannot be gated, if there are some."""
    if isinstance(objective, TotalObjective):
        return "a `TotalLoss`"
    if not isinstance(objective, SampleObjective):
        return 0
    try:
        pieces = Pieces(objective, parameters)
    except CannotGate as error:
        return str(error)
    return "the loss that are not those of a selection" if pieces.loss_has_cusp(parameters) else pieces.kinks


class Pieces:
    """An objective of samples, piece by piece. Made anew in each trace, from `parameters` for their structure only."""

    def __init__(self, objective: SampleObjective, parameters: Any):
        self._objective = objective
        y, self.unravel = ravel_pytree(parameters)
        data = objective.data
        self._weights = jnp.full(data.samples, 1 / data.samples, y.dtype) if data.weight is None else data.weight
        sizes = count_gates(self._loss, parameters, *one_of((data.x, data.y)))
        self.shape = data.samples, sum(sizes)
        self.levels = len(sizes)
        self.level = np.repeat(np.arange(len(sizes)), sizes)  # of every entry: later ones depend on earlier ones
        # Traced once, however often it is called.
        self._program = jax.jit(lambda gates, *arguments: gated(self._loss, frozen(gates), *arguments))

    @property
    def kinks(self) -> int:
        """Their number, of all samples."""
        return self.shape[0] * self.shape[1]

    def padded(self, capacity: int) -> int:
        """The length of a list for so many kinks: whole blocks, and no more than there are kinks."""
        return -(-min(capacity, self.kinks) // _BLOCK) * _BLOCK

    def loss_has_cusp(self, parameters: Any) -> bool:
        """Whether the loss has kinks, none of which is that of a selection."""
        loss, data = self._objective.loss_function, self._objective.data
        if loss in LOSSES.values():
            return False
        x, y = one_of((data.x, data.y))
        prediction = jax.eval_shape(lambda parameters, x: self._objective.net(parameters)(x), parameters, x)
        gates = count_gates(lambda change, *at: loss(at[0] + change, at[1]), prediction, prediction, y)
        return not gates and loss_has_kinks(loss, prediction, y)

    def _loss(self, parameters: Any, x: Array, target: Array) -> Array:
        return self._objective.loss_function(self._objective.net(parameters)(x), target)

    @property
    def _rows(self) -> tuple[Any, Any, Float[Array, " n"]]:
        return self._objective.data.x, self._objective.data.y, self._weights

    def _of(self, y: Float[Array, " p"], gates: Float[Array, " k"], row: Any) -> tuple[Array, Float[Array, " k"]]:
        """The weighted loss of one sample, and its switching functions."""
        x, target, weight = row
        loss, switches = self._program(gates, self.unravel(y), x, target)
        return weight * loss, jnp.concatenate([h.ravel() for h in switches])

    def _sample(self, y: Float[Array, " p"], gates: Float[Array, " k"], i: Any) -> tuple[Array, Float[Array, " k"]]:
        """The same of sample `i`."""
        return self._of(y, gates, jax.tree.map(lambda rows: rows[i], self._rows))

    def gradient(self, y: Float[Array, " p"], gates: Float[Array, "n k"]) -> Float[Array, " p"]:
        """∇ℒ + λθ."""
        loss = lambda y: jnp.sum(jax.vmap(lambda g, row: self._of(y, g, row)[0])(gates, self._rows))
        gradient = self.unravel(jax.grad(loss)(y))
        return ravel_pytree(self._objective.with_decay(gradient, self.unravel(y)))[0]

    def switches(self, y: Float[Array, " p"], gates: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """The switching functions of all kinks."""
        return jax.vmap(lambda g, row: self._of(y, g, row)[1])(gates, self._rows)

    def _place(self, at: Int[Array, "..."]) -> tuple[UInt[Array, "..."], UInt[Array, "..."]]:
        """The sample and the entry of flat positions, which are not negative: so division and indexing are short."""
        at = at.astype(jnp.uint32)
        entries = jnp.full_like(at, self.shape[1])
        return jax.lax.div(at, entries), jax.lax.rem(at, entries)

    def switch(self, y: Float[Array, " p"], gates: Float[Array, "n k"], at: Int[Array, ""]) -> Float[Array, ""]:
        """One of them, at the cost of one sample."""
        i, entry = self._place(at)
        return self._sample(y, gates[i], i)[1][entry]

    def fall(
        self, y: Float[Array, " p"], gates: Float[Array, " k"], sample: Any, entry: Any, direction: Float[Array, " p"]
    ) -> Float[Array, ""]:
        """By how much the velocity in a direction falls across a kink from its negative to its positive side.

        `gates`: those of the sample.
        """
        on = lambda y, side: self._sample(y, gates.at[entry].set(side), sample)[0]
        return jax.jvp(lambda y: on(y, 1.0) - on(y, 0.0), (y,), (direction,))[1]

    def contact(self, y: Float[Array, " p"], piece: Piece) -> Contact:
        """The kinks that slide on a piece, and those with the same surfaces."""
        return self._contact(y, piece.gates, piece.touching)._replace(leader=piece.leader, is_along=piece.is_along)

    def grouped_contact(
        self, y: Float[Array, " p"], gates: Bool[Array, "n k"], touching: Int[Array, " c"]
    ) -> tuple[Contact, Float[Array, "c c"]]:
        """Any list of kinks, grouped by their surfaces, and the Gram matrix of their normals."""
        contact = self._contact(y, gates, touching)
        rows = lambda at: block_of(contact.normal, at)
        columns = lambda at: in_blocks(lambda to: [rows(to) @ rows(at).T], contact.is_used, y.dtype, (_BLOCK,))
        (gram,) = in_blocks(lambda at: [columns(at)[0].T], contact.is_used, y.dtype, touching.shape)
        leader, is_along = groups(gram)
        return contact._replace(leader=leader, is_along=is_along), gram

    def _contact(self, y: Float[Array, " p"], gates: Bool[Array, "n k"], touching: Int[Array, " c"]) -> Contact:
        is_used, gates = touching < gates.size, gates.astype(y.dtype)
        sample, entry = self._place(jnp.where(is_used, touching, 0))

        def unit_normal(i: Array, entry: Array) -> tuple[Array, Array]:
            normal = jax.grad(lambda y: self._sample(y, gates[i], i)[1][entry])(y)
            length = jnp.linalg.norm(normal)
            return normal / jnp.where(length == 0, 1, length), length

        units = lambda at: jax.vmap(unit_normal)(block_of(sample, at), block_of(entry, at))
        normal, length = in_blocks(units, is_used, y.dtype, y.shape, ())
        return Contact(touching, sample, entry, is_used, normal, length, jnp.arange(len(touching)), is_used)

    def velocity(self, y: Float[Array, " p"], piece: Piece) -> Float[Array, " p"]:
        """−(∇ℒ + λθ) on a piece, projected on the surfaces on which the flow slides."""
        plain = -self.gradient(y, piece.gates.astype(y.dtype))
        projected = lambda: self.contact(y, piece).tangential(piece.slides, piece.factor, plain)[0]
        return jax.lax.cond(jnp.any(piece.slides), projected, lambda: plain)

    def on_surfaces(self, y: Float[Array, " p"], piece: Piece) -> Float[Array, " p"]:
        """The parameters with what integration has left of h on sliding kinks removed, by two steps of Gauss-Newton."""

        def corrected(_: Any, y: Array) -> Array:
            contact, h = self.contact(y, piece), self.switches(y, piece.gates.astype(y.dtype)).ravel()
            h = h.at[piece.touching].get(mode="fill", fill_value=0) / jnp.where(contact.length == 0, 1, contact.length)
            return y - contact.combined(contact.least_squares(piece.slides, piece.factor, h))

        return jax.lax.fori_loop(0, jnp.where(jnp.any(piece.slides), 2, 0), corrected, y)


def in_blocks(rows: Callable, is_used: Bool[Array, " c"], dtype: Any, *shapes: tuple[int, ...]) -> list[Array]:
    """`rows` of the places of a list, in blocks, as many as are used; zero in the rest. One array for each shape.

    `rows` is called with the first place of each block.
    """

    def add(block: UInt[Array, ""], found: list[Array]) -> list[Array]:
        first = block * _BLOCK
        used, zero = block_of(is_used, first), jnp.zeros_like(first)

        def put(old: Array, new: Array) -> Array:  # a scatter of the same would take longer than they do
            new = jnp.where(used.reshape(-1, *[1] * (new.ndim - 1)), new, 0)
            return jax.lax.dynamic_update_slice(old, new, (first, *[zero] * (new.ndim - 1)))

        return [put(*pair) for pair in zip(found, rows(first), strict=True)]

    nothing = [jnp.zeros((len(is_used), *shape), dtype) for shape in shapes]
    return jax.lax.fori_loop(_FIRST, _blocks(is_used), add, nothing)


def block_of(array: Shaped[Array, "c ..."], first: UInt[Array, ""]) -> Shaped[Array, "b ..."]:
    """The block of a list that begins at a place."""
    return jax.lax.dynamic_slice_in_dim(array, first, _BLOCK)


def _blocks(is_used: Bool[Array, " c"]) -> UInt[Array, ""]:
    return jax.lax.div(jnp.sum(is_used, dtype=jnp.uint32) + jnp.uint32(_BLOCK - 1), jnp.uint32(_BLOCK))


def groups(gram: Float[Array, "c c"]) -> tuple[Int[Array, " c"], Bool[Array, " c"]]:
    """For every unit normal the first that is parallel to it, and whether it has the same direction."""
    places = jnp.arange(len(gram))
    same = (jnp.abs(gram) > 1 - 1e4 * jnp.finfo(gram.dtype).eps) | (places[:, None] == places)
    leader = jnp.argmax(same, axis=1)
    return leader, gram[places, leader] >= 0


def factor_of(gram: Float[Array, "c c"], slides: Bool[Array, " c"]) -> Float[Array, "c c"]:
    """The Cholesky factor of the Gram matrix of the normals that slide, with ones in the place of others."""
    one = jnp.eye(len(slides), dtype=gram.dtype)
    gram = jnp.where(slides[:, None] & slides, gram, one)
    return jnp.linalg.cholesky(gram + _JITTER * jnp.finfo(one.dtype).eps * one)
