"""The ways to integrate many gradient flows: `prepare(case)` gives `run(lanes, limit)`, which compiles once.

All follow the same flows from the same parameters in float64, at the same tolerances. The loops in Python stop at the
limit of seconds with the lanes that they have; the others do not know it.
"""

import itertools
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import nfa_flow as nf
from nfa_flow.problem.objective import make_objective
from nfa_flow.sweep.engines import choice
from nfa_flow.sweep.engines.lockstep import InLockstep

RTOL = 1e-4
ATOL = RTOL / 1000
DECAYS = (0.0, 0.01, 0.1, 1.0)
SCALES = (0.05, 0.3, 1.0, 3.0)
HORIZONS = (1.0, 0.1, 0.01, 1e-3, 1e-4)  # of the longest one
_STRIDE = 27  # through all their combinations: neighbors differ in everything, as few lanes as horizons in those
_TSIT5 = diffrax.Tsit5()


class Lane(NamedTuple):
    """The settings of one run."""

    seed: int
    weight_decay: float
    scale: float
    t1: float


@dataclass(frozen=True)
class Lanes:
    """The runs of one cell; any whole number of cycles at their beginning is representative of them all."""

    all: tuple[Lane, ...]
    cycle: int

    @classmethod
    def uniform(cls, count: int, t1: float) -> "Lanes":
        """They differ in their seeds only."""
        return cls(tuple(Lane(seed, 0.0, 1.0, t1) for seed in range(count)), 1)

    @classmethod
    def heterogeneous(cls, count: int, t1: float) -> "Lanes":
        """Decay rates, scales and horizons that make the numbers of steps differ.

        By horizons and not by stop rules: those end at a step, and the losses of different solvers could not be
        compared.
        """
        settings = list(itertools.product(DECAYS, SCALES, HORIZONS))
        chosen = [settings[_STRIDE * i % len(settings)] for i in range(count)]
        return cls(tuple(Lane(seed, w, s, h * t1) for seed, (w, s, h) in enumerate(chosen)), len(HORIZONS))

    @property
    def columns(self) -> dict[str, tuple]:
        """Setting → its value in each lane."""
        return dict(zip(Lane._fields, zip(*self.all, strict=True), strict=True))

    @property
    def arrays(self) -> tuple[jax.Array, ...]:
        """Keys, decay rates, scales and horizons."""
        seeds, *numbers = self.columns.values()
        return jax.vmap(jax.random.key)(jnp.asarray(seeds)), *map(jnp.asarray, numbers)

    def short(self) -> "Lanes":
        """The same with next to no time, for compiling."""
        return replace(self, all=tuple(lane._replace(t1=1e-6 * lane.t1) for lane in self.all))


@dataclass(frozen=True)
class Flow:
    """One run, as `nf.sweep` calls it, with the loss (and more, if often) at so many times."""

    widths: tuple[int, ...]
    data: nf.Dataset
    solver: diffrax.AbstractSolver | None = None
    observations: int = 1
    observe: tuple[tuple[str, Any], ...] = (("loss", nf.measure.loss),)

    def net(self, key: jax.Array, scale: Any) -> nf.nets.MLP:
        """Where the flow starts."""
        return nf.nets.MLP(list(self.widths), key=key, activation="tanh", init=nf.nets.Gaussian(scale))

    def __call__(self, key: jax.Array, weight_decay: Any, scale: Any, t1: Any) -> nf.Trajectory:
        """Integrate it."""
        times = jnp.asarray([1.0]) if self.observations == 1 else nf.log_times(1e-4, 1.0, self.observations)
        return nf.gradient_flow(
            self.net(key, scale),
            self.data,
            t1,
            weight_decay=weight_decay,
            observe=dict(self.observe),
            save_at=t1 * jnp.asarray(times),
            solver=self.solver,
            rtol=RTOL,
            atol=ATOL,
            progress=False,
        )


@dataclass(frozen=True)
class Case:
    """A size of network, and data for it."""

    widths: tuple[int, ...]
    samples: int = 256

    @property
    def parameters(self) -> int:
        """P."""
        return sum(a * b for a, b in itertools.pairwise(self.widths))

    @property
    def name(self) -> str:
        """For tables and files."""
        return f"tanh {'-'.join(map(str, self.widths))}"

    @property
    def data(self) -> nf.Dataset:
        """Noisy samples of a staircase of two directions."""
        return nf.data.multi_index(self.samples, self.widths[0], rank=2, key=jax.random.key(0), noise=0.1)

    @property
    def loss_of_zero(self) -> float:
        """The loss of the function zero, to compare others with."""
        return 0.5 * float(jnp.mean(self.data.y**2))

    def flow(self, **options: Any) -> Flow:
        """A run of this size."""
        return Flow(self.widths, self.data, **options)


class Outcome(NamedTuple):
    """Losses at the ends of the lanes that were run, in order; their steps, and the useful part of all steps."""

    losses: np.ndarray
    steps: np.ndarray | None = None
    useful: float | None = None


Run = Callable[[Lanes, float], Outcome]


def swept(batch: Any = "auto", *, in_processes: bool = False, **options: Any) -> Callable[[Case], Run]:
    """`nf.sweep`."""

    def prepare(case: Case) -> Run:
        flow, executor = case.flow(**options), processes() if in_processes else None

        def run(lanes: Lanes, limit: float) -> Outcome:
            before = np.zeros(2) if batch != "vmap" else _accounts()
            grid = nf.Grid(nf.zipped(**lanes.columns))
            dataset = nf.sweep(flow, grid, batch=batch, executor=executor, progress=False)
            needed, computed = _accounts() - before if batch == "vmap" else (0.0, 0.0)
            useful = needed / computed if computed else None
            return Outcome(dataset["loss_at_end"].values, dataset["total_steps"].values, useful)

        return run

    return prepare


def _accounts() -> np.ndarray:
    """Steps that lanes needed and steps that were computed, of all engines that run in lockstep."""
    engines = [engine for engine in choice._engines.values() if isinstance(engine, InLockstep)]
    return np.sum([(engine.needed_steps, engine.computed_steps) for engine in engines] or np.zeros((1, 2)), axis=0)


@cache
def processes() -> ProcessPoolExecutor:
    """A worker for every core, kept for all cells."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn"), initializer=use_float64)


def use_float64() -> None:
    """In every process of the benchmark."""
    jax.config.update("jax_enable_x64", True)


def looped(case: Case) -> Run:
    """One call of `nf.gradient_flow` after another."""
    flow = case.flow()

    def lane(seed: int, **settings: float) -> tuple[float, int]:
        run = flow(jax.random.key(seed), **settings)
        return float(run.observed["loss"][-1]), run.stats["steps"]

    def run(lanes: Lanes, limit: float) -> Outcome:
        losses, steps = zip(*(lane(**each._asdict()) for each in _until(limit, lanes)), strict=True)
        return Outcome(np.asarray(losses), np.asarray(steps))

    return run


def _until(limit: float, lanes: Lanes) -> Iterator[Lane]:
    """Lanes, in whole cycles, until the limit of seconds has passed."""
    began = time.perf_counter()
    for finished, lane in enumerate(lanes.all):
        if finished and finished % lanes.cycle == 0 and time.perf_counter() - began > limit:
            return
        yield lane


def vmapped(case: Case) -> Run:
    """`jax.jit(jax.vmap(…))` around `nf.gradient_flow`."""
    flow = case.flow()

    def lane(*settings: jax.Array) -> tuple[jax.Array, jax.Array]:
        run = flow(*settings)
        return run.observed["loss"][0], run.counts["steps"]

    return _in_one_piece(lane)


def vmapped_diffrax(case: Case) -> Run:
    """`jax.jit(jax.vmap(…))` around `diffrax.diffeqsolve`, with the controller for steps limited by stability."""
    flow = case.flow()

    def lane(key: jax.Array, weight_decay: jax.Array, scale: jax.Array, t1: jax.Array) -> tuple[jax.Array, jax.Array]:
        parameters, objective = make_objective(flow.net(key, scale), flow.data, "mse", weight_decay)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: jax.tree.map(jnp.negative, objective.gradient(y))),
            _TSIT5,
            0.0,
            t1,
            None,
            parameters,
            stepsize_controller=diffrax.PIDController(RTOL, ATOL, pcoeff=0.3, icoeff=0.4),
            adjoint=diffrax.ForwardMode(),
            max_steps=10**9,
        )
        net = objective.net(jax.tree.map(lambda y: y[-1], solution.ys))
        return nf.measure.loss(net, flow.data), solution.stats["num_steps"]

    return _in_one_piece(lane)


def _in_one_piece(lane: Callable) -> Run:
    """All lanes in one program; each waits for the slowest."""
    compiled = jax.jit(jax.vmap(lane))

    def run(lanes: Lanes, limit: float) -> Outcome:
        losses, steps = map(np.asarray, compiled(*lanes.arrays))
        return Outcome(losses, steps, float(steps.sum() / (steps.size * steps.max())))

    return run


def torch_loop(case: Case) -> Run:
    """The same networks in PyTorch with its autograd, one after another, by torchdiffeq's Dormand-Prince pair."""

    flow = case.flow()

    def run(lanes: Lanes, limit: float) -> Outcome:
        ends = [torch_lane(flow, lane, math.inf) for lane in _until(limit, lanes)]
        return Outcome(np.asarray([end.loss for end in ends]))

    return run


class TorchLane(NamedTuple):
    """How far torchdiffeq got with one run; `loss` is NaN where that is not the end."""

    loss: float
    gradients: int
    reached: float


def torch_lane(flow: Flow, lane: Lane, limit: float) -> TorchLane:
    """One run on one core, given up after so many seconds."""
    import torch  # pyright: ignore[reportMissingImports]  (an optional peer)
    import torchdiffeq  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    deadline, reached, gradients = time.perf_counter() + limit, 0.0, 0
    tensor = lambda array: torch.from_numpy(np.array(array))
    x, y = tensor(flow.data.x), tensor(flow.data.y)
    start = [tensor(W) for W in flow.net(jax.random.key(lane.seed), lane.scale).weights]

    def loss(parameters: Any) -> Any:
        *hidden, last = unflatten(parameters, [W.shape for W in start])
        h = x
        for W in hidden:
            h = torch.tanh(h @ W.T)
        return 0.5 * ((h @ last.T - y) ** 2).sum() / len(x)

    def velocity(t: Any, parameters: Any) -> Any:
        nonlocal reached, gradients
        if time.perf_counter() > deadline:
            raise TimeoutError
        reached, gradients = max(reached, float(t)), gradients + 1
        parameters = parameters.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(parameters), parameters)
        return -gradient - lane.weight_decay * parameters.detach()

    times = torch.tensor([0.0, lane.t1], dtype=torch.float64)
    options: Any = {"rtol": RTOL, "atol": ATOL, "method": "dopri5"}
    try:
        path: Any = torchdiffeq.odeint(velocity, torch.cat([W.reshape(-1) for W in start]), times, **options)
    except TimeoutError:
        return TorchLane(math.nan, gradients, reached)
    return TorchLane(float(loss(path[-1])), gradients, lane.t1)


def unflatten(vector: Any, shapes: Sequence[Any]) -> list[Any]:
    """Matrices of these shapes, one after another in a vector of PyTorch."""
    parts = vector.split([math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


OURS, LOOP, TORCH = "nf.sweep", "Python loop", "torchdiffeq loop"
PROCESSES = "nf.sweep, processes"
WAYS: dict[str, Callable[[Case], Run]] = {
    OURS: swept(),
    "nf.sweep, sequential": swept("sequential"),
    "nf.sweep, vmap": swept("vmap"),
    PROCESSES: swept(in_processes=True),
    LOOP: looped,
    "jit(vmap)": vmapped,
    "nf.sweep, Tsit5": swept(solver=_TSIT5),
    "diffrax Tsit5, jit(vmap)": vmapped_diffrax,
    TORCH: torch_loop,
}
