"""Every solver of the comparison behind one interface: `prepare(net, data, rtol, sharpness)` gives `solve(t1)`.

All follow dθ/dt = −∇ℒ from the same parameters on the same data in float64, with atol = rtol/100. The JAX solvers and
CVODE share the compiled gradient of `nfa_flow.problem.objective`; torchdiffeq has the same network in PyTorch and its
autograd.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from solver_problems import flat

import nfa_flow as nf
from nfa_flow.flow.solvers.choice import evaluations_per_step
from nfa_flow.nets.activations import name_of
from nfa_flow.problem.objective import MomentObjective, make_objective


class Outcome(NamedTuple):
    """Where a solver arrived, and what it spent; None where it does not say."""

    parameters: np.ndarray
    gradients: int | None = None
    products: int | None = None
    steps: int | None = None
    rejected: int | None = None
    events: int | None = None  # crossings of kinks, and the begins and ends of slides


Solve = Callable[[float], Outcome]


class Method(NamedTuple):
    """A solver as the benchmark knows it.

    `prepare`: `(net, data, rtol, sharpness) -> solve`, where `solve(t1)` compiles in its first call only; `rtols`: its
    tolerances, loosest first; `kind`: "ours", "explicit" or "implicit"; `needs`: packages beyond ours;
    `cpu_only`: whether it runs on the CPU also where there is a GPU; `for_kinks`: whether it is for problems with kinks
    alone.
    """

    prepare: Callable[[nf.nets.MLP, nf.Dataset, float, float], Solve]
    rtols: tuple[float, ...]
    kind: str
    needs: tuple[str, ...] = ()
    cpu_only: bool = False
    for_kinks: bool = False


def ours(solver_at: Callable[[float], Any]) -> Callable[..., Solve]:
    """`gradient_flow` with one of our solvers, which may depend on `rtol`, or (None) with the one that it chooses."""

    def prepare(net, data, rtol, sharpness) -> Solve:
        solver = solver_at(rtol)

        def solve(t1: float) -> Outcome:
            run = nf.gradient_flow(
                net,
                data,
                t1,
                solver=solver,
                rtol=rtol,
                atol=rtol / 100,
                save_at=[t1],
                max_steps=10**9,
                progress=False,
            )
            names = ("gradient_evaluations", "hessian_vector_products", "steps", "rejected")
            counts = [run.stats.get(name) for name in names]
            events = sum(run.stats.get(name, 0) for name in ("crossings", "slides", "releases"))
            return Outcome(flat(run.net), *(None if count is None else int(count) for count in counts), int(events))

        return solve

    return prepare


def of_diffrax(solver: Any) -> Callable[..., Solve]:
    """`diffrax.diffeqsolve` with the PI controller that suits steps limited by stability."""

    def prepare(net, data, rtol, sharpness) -> Solve:
        parameters, objective = make_objective(net, data, "mse", 0.0)

        @jax.jit
        def compiled(parameters, t1):
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(lambda t, y, args: jax.tree.map(jnp.negative, objective.gradient(y))),
                solver,
                0.0,
                t1,
                None,
                parameters,
                stepsize_controller=diffrax.PIDController(rtol, rtol / 100, pcoeff=0.3, icoeff=0.4),
                adjoint=diffrax.ForwardMode(),
                max_steps=10**9,
            )
            assert solution.ys is not None
            return jax.tree.map(lambda y: y[-1], solution.ys), solution.stats

        cost = evaluations_per_step(solver)

        def solve(t1: float) -> Outcome:
            final, stats = compiled(parameters, t1)
            steps, rejected = int(stats["num_steps"]), int(stats["num_rejected_steps"])
            gradients = None if cost is None else 2 + cost[1] + cost[0] * steps  # two choose the first step
            return Outcome(np.asarray(ravel_pytree(final)[0]), gradients, 0, steps, rejected)

        return solve

    return prepare


def of_cvode(net, data, rtol, sharpness) -> Solve:
    """SUNDIALS CVODE: backward differentiation formulas, Newton's method, GMRES with up to 30 Krylov vectors.

    Products with the Jacobian by its own differences of gradients: with exact ones it took 1.6 times as long (tanh
    problem, t = 1 000) at the same error. All gradients, also those of the products, are counted as gradients.
    """
    from sksundae.cvode import CVODE  # pyright: ignore[reportMissingImports]  (an optional peer)

    parameters, objective = make_objective(net, data, "mse", 0.0)
    start, unravel = ravel_pytree(parameters)
    velocity = jax.jit(lambda y: -ravel_pytree(objective.gradient(unravel(y)))[0])

    def solve(t1: float) -> Outcome:
        gradients = 0

        def right_hand_side(t, y, out):
            nonlocal gradients
            gradients += 1
            out[:] = velocity(y)

        options: Any = {"rtol": rtol, "atol": rtol / 100, "max_num_steps": 10**9}
        solver = CVODE(right_hand_side, method="BDF", linsolver="gmres", krylov_dim=30, **options)
        solver.init_step(0.0, np.asarray(start))
        solution = solver.step(t1, method="normal", tstop=None)
        if not solution.success:
            raise RuntimeError(solution.message)
        return Outcome(np.ravel(solution.y), gradients, 0)

    return solve


def of_torchdiffeq(net, data, rtol, sharpness) -> Solve:
    """The same network and loss in PyTorch, its autograd, and torchdiffeq's Dormand-Prince pair."""
    import torch  # pyright: ignore[reportMissingImports]  (an optional peer)
    import torchdiffeq  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    tensor = lambda array: torch.from_numpy(np.array(array))
    shapes = [W.shape for W in net.weights]
    activations = [_in_torch(torch, name_of(activation)) for activation in net.activations]
    x, y = (tensor(array) for array in _as_samples(net, data))

    def velocity(t, parameters):
        parameters = parameters.detach().requires_grad_()
        with torch.enable_grad():
            parts = torch.split(parameters, [math.prod(shape) for shape in shapes])
            weights = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
            h = x
            for W, activation in zip(weights[:-1], activations, strict=True):
                h = activation(h @ W.T)
            loss = 0.5 * ((h @ weights[-1].T - y) ** 2).sum() / len(x)
        return -torch.autograd.grad(loss, parameters)[0]

    def solve(t1: float) -> Outcome:
        counts = {"gradients": 0, "accepted": 0, "rejected": 0}

        def count(name):
            counts[name] += 1

        def counted(t, parameters):
            count("gradients")
            return velocity(t, parameters)

        setattr(counted, "callback_accept_step", lambda *_: count("accepted"))  # noqa: B010  (a function has no such name)
        setattr(counted, "callback_reject_step", lambda *_: count("rejected"))  # noqa: B010  (likewise)
        times = torch.tensor([0.0, t1], dtype=torch.float64)
        options: Any = {"rtol": rtol, "atol": rtol / 100, "method": "dopri5"}
        path: Any = torchdiffeq.odeint(counted, tensor(flat(net)), times, **options)
        steps = counts["accepted"] + counts["rejected"]
        return Outcome(path[-1].numpy(), counts["gradients"], 0, steps, counts["rejected"])

    return solve


def _in_torch(torch, name: str | None) -> Callable:
    functional = torch.nn.functional
    return {
        "identity": lambda z: z,
        "tanh": torch.tanh,
        "softplus": functional.softplus,
        "gelu": lambda z: functional.gelu(z, approximate="tanh"),  # as JAX's default
        "relu": functional.relu,
    }[str(name)]


def _as_samples(net, data) -> tuple[Any, Any]:
    """The samples, or for a linear network the fewer ones with the same second moments, which our gradient uses."""
    _, objective = make_objective(net, data, "mse", 0.0)
    if not isinstance(objective, MomentObjective):
        return data.x, data.y
    rows = objective.factor * len(objective.factor) ** 0.5
    return rows[:, : data.inputs], rows[:, -data.outputs :]


def classical_runge_kutta(net, data, rtol, sharpness) -> Solve:
    """The classical method of order 4 with the constant step 1/λ_max, λ_max the largest along the trajectory."""
    parameters, objective = make_objective(net, data, "mse", 0.0)
    start, unravel = ravel_pytree(parameters)

    @jax.jit
    def compiled(y, h, steps):
        velocity = lambda y: -ravel_pytree(objective.gradient(unravel(y)))[0]

        def step(_, y):
            k1 = velocity(y)
            k2 = velocity(y + h / 2 * k1)
            k3 = velocity(y + h / 2 * k2)
            k4 = velocity(y + h * k3)
            return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

        return jax.lax.fori_loop(0, steps, step, y)

    def solve(t1: float) -> Outcome:
        steps = max(1, math.ceil(t1 * sharpness))
        return Outcome(np.asarray(compiled(start, t1 / steps, steps)), 4 * steps, 0, steps, 0)

    return solve


_ALL = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
_EXPLICIT = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # where stability limits the step, errors lie far below rtol
_NO_TOLERANCE = (0.0,)

METHODS = {
    "default": Method(ours(lambda rtol: None), _ALL, "ours"),
    "Piecewise": Method(ours(lambda rtol: nf.flow.Piecewise()), (1e-2, 1e-4, 1e-6, 1e-8), "ours", for_kinks=True),
    # Its error falls as 1/beta.
    "Smoothed": Method(
        ours(lambda rtol: nf.flow.Smoothed(beta=1 / rtol)), (1e-2, 1e-3, 1e-4, 1e-5), "ours", for_kinks=True
    ),
    "NDF": Method(ours(lambda rtol: nf.flow.NDF()), _ALL, "ours"),
    "TSRKC3": Method(ours(lambda rtol: nf.flow.TSRKC3()), (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7), "ours"),
    "RKC2": Method(ours(lambda rtol: nf.flow.RKC2()), (1e-2, 1e-3, 1e-4, 1e-5, 1e-6), "ours"),
    "Tsit5": Method(of_diffrax(diffrax.Tsit5()), _EXPLICIT, "explicit"),
    "Dopri5": Method(of_diffrax(diffrax.Dopri5()), _EXPLICIT, "explicit"),
    "Dopri8": Method(of_diffrax(diffrax.Dopri8()), _EXPLICIT, "explicit"),
    "Kvaerno5": Method(of_diffrax(diffrax.Kvaerno5()), (1e-3, 1e-5, 1e-7), "implicit"),
    "torchdiffeq": Method(of_torchdiffeq, (1e-3, 1e-5, 1e-7), "explicit", ("torch", "torchdiffeq"), cpu_only=True),
    "CVODE": Method(of_cvode, _ALL, "implicit", ("sksundae",), cpu_only=True),
    "RK4": Method(classical_runge_kutta, _NO_TOLERANCE, "explicit"),
}
