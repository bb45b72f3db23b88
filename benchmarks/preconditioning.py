"""Would preconditioning the Newton systems of NDF pay?

NDF solves (I + cH) x = b by conjugate gradients at every step. Here its systems are recorded along whole flows, and
some of them, evenly spread, are solved again with each preconditioner, from zero to the same residual. The cost is
counted in gradients (a Hessian-vector product by finite differences is one): for each system the gradient in b, the
products, and what applying and building the preconditioner takes in floating operations (a lower bound: small dense
algebra runs slower than that). A preconditioner k steps old is built at every k-th step.

Preconditioners: the diagonal of H (exact, estimated by Hutchinson 1990, or of the Gauss-Newton matrix); layer-wise
Kronecker products (Martens & Grosse 2015); the Gauss-Newton matrix itself, layer by layer and whole, as bounds of what
these can give; deflation by the largest eigenvectors of H, of this step or of earlier ones.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigsh

import nfa_flow as nf
from nfa_flow.flow.solvers.conjugate_gradients import _NEGATIVE_CURVATURE
from nfa_flow.flow.solvers.newton_cg import _LINEAR_SHARE, _MOST_PRODUCTS, NewtonCG, _difference
from nfa_flow.problem.objective import make_objective

RTOLS = (1e-3, 1e-6, 1e-8)
DEFLATED = (4, 8, 16)
SYSTEMS = 30  # of each run are solved again
AGES = (0, 5, 20)  # in steps, of what is built at one step and used at a later one
PROBES = 4
MOST_FOR_DENSE = 2000  # parameters, for the exact diagonal


def multi_index(activation: str, widths: list[int], samples: int, stretch: float = 1.0):
    """A network that learns a staircase of two directions of inputs that are `stretch` times standard normal."""
    data_key, net_key = jax.random.split(jax.random.key(0))
    data = nf.data.multi_index(samples, widths[0], rank=2, key=data_key)
    return nf.nets.MLP(widths, key=net_key, activation=activation), nf.Dataset(stretch * data.x, data.y)


def deep_linear():
    """Three linear layers that start close to the saddle at zero."""
    data_key, net_key = jax.random.split(jax.random.key(0))
    data = nf.data.linear_teacher(100, 10, 3, key=data_key, noise=0.1)
    return nf.nets.MLP([10, 10, 10, 3], key=net_key, init=nf.nets.Gaussian(0.03)), data


PROBLEMS: dict[str, tuple[float, Callable]] = {
    "tanh": (1e4, lambda: multi_index("tanh", [10, 32, 32, 1], 256)),
    "softplus": (1e3, lambda: multi_index("softplus", [10, 32, 32, 1], 256, stretch=3.0)),
    "linear": (1e4, deep_linear),
    "gelu": (1e2, lambda: multi_index("gelu", [20, 84, 84, 1], 2000)),
}


class System(NamedTuple):
    """(I + cH) x = right with H at y, to be solved until the residual in units of `scale` has an RMS below `bound`."""

    y: np.ndarray
    right: np.ndarray
    scale: np.ndarray
    c: float
    bound: float


class Recording(NewtonCG):
    """A `NewtonCG` that also hands the first linear system of each step to `sink`."""

    sink: Callable = eqx.field(static=True, kw_only=True)

    def solve(self, field, y, psi, a, scale, share, rate, exact):
        """As in `NewtonCG`."""
        jax.debug.callback(self.sink, y, field(y), psi, a, scale, share, ordered=True)
        return super().solve(field, y, psi, a, scale, share, rate, exact)


class Flow:
    """One problem: its gradient and products with its Hessian as functions of the vector of parameters."""

    def __init__(self, net: nf.nets.MLP, data: nf.Dataset):
        parameters, objective = make_objective(net, data, "mse", 0.0)
        y, unravel = ravel_pytree(parameters)
        self.size, self.net, self.data, self.rows = y.size, net, data, data.samples * data.outputs
        self.matrices = lambda v: unravel(v).weights
        gradient = lambda y: ravel_pytree(objective.gradient(unravel(y)))[0]
        self.exact_product = lambda y, v: jax.jvp(gradient, (y,), (v,))[1]
        self.gradient = jax.jit(gradient)
        self.product = jax.jit(lambda y, at_y, v: _difference(gradient, y, at_y, v))
        cost: Any = self.gradient.lower(y).compile().cost_analysis()
        self.work = cost["flops"]
        self.work_of_factors = 2 * y.size * (data.samples + self.rows)

    def systems(self, t1: float, rtol: float) -> tuple[list[System], dict]:
        """The first linear system of every step that NDF attempts, and the statistics of its run."""
        raw = []
        make: Any = diffrax.with_stepsize_controller_tols(Recording)  # pyright: ignore  (as for the default of NDF)
        options = {"rtol": rtol, "atol": rtol / 100, "save_at": [t1], "progress": False}
        solver = nf.flow.NDF(root_finder=make(sink=lambda *system: raw.append(system)))
        run = nf.gradient_flow(self.net, self.data, t1, solver=solver, **options)
        jax.effects_barrier()
        systems = []
        for y, step, psi, a, scale, share in (map(np.asarray, each) for each in raw):
            gradient = np.asarray(self.gradient(y))
            h = -(step @ gradient) / (gradient @ gradient)
            systems.append(System(y, a * step - psi, scale, float(a * h), float(_LINEAR_SHARE * share)))
        return systems, run.stats

    def eigenvectors(self, y: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The `count` largest eigenvectors of H as columns, largest first, and their eigenvalues."""
        at_y = self.gradient(y)
        matvec: Any = lambda v: np.asarray(self.product(y, at_y, v.ravel()))
        H = LinearOperator((self.size, self.size), matvec, dtype=np.float64)  # pyright: ignore  (its stubs)
        values, vectors = eigsh(H, count, which="LA", tol=1e-4, v0=np.asarray(at_y))  # pyright: ignore  (its stubs)
        return vectors[:, ::-1], values[::-1]

    def factors(self, y) -> list[tuple[jax.Array, jax.Array]]:
        """Per layer its inputs h (n, fan_in) and the derivatives g (n, outputs, fan_out) by its pre-activations."""
        net, x = self.net.with_weights(self.matrices(y)), self.data.x

        def factors_of(layer: int, W):
            h = jax.vmap(partial(net.to_layer, layer))(x)
            return h, jax.vmap(jax.jacrev(partial(net.from_preactivation, layer)))(h @ W.T)

        return [factors_of(layer, W) for layer, W in enumerate(net.weights, start=1)]


_flat = lambda matrices: jnp.concatenate([V.ravel() for V in matrices])


class Preconditioner(NamedTuple):
    """`apply(build(y, c), c, v)` approximates (I + cH)⁻¹ v; `building` and `applying` are their floating operations."""

    build: Callable[[Any, Any], Any]
    apply: Callable[[Any, Any, Any], Any]
    building: float
    applying: float = 0.0


@jax.jit
def _deflate(built, c, v):
    """1 + cλ becomes 1 on the given eigenvectors."""
    vectors, values = built
    return v + vectors @ ((1 / (1 + c * jnp.maximum(values, 0)) - 1) * (v @ vectors))


def diagonals(flow: Flow) -> dict[str, Preconditioner]:
    """1 + c diag(H): exact where P is small, diag(H) = E[z ∘ Hz] over random signs z, and 1 + c diag(JᵀJ/n)."""
    signs = jax.random.rademacher(jax.random.key(0), (PROBES, flow.size), float)
    exact = lambda y, c: jax.lax.map(lambda e: e @ flow.exact_product(y, e), jnp.eye(flow.size))
    estimated = lambda y, c: jnp.mean(jax.vmap(lambda z: z * flow.exact_product(y, z))(signs), axis=0)
    outer = lambda y, c: _flat(jnp.einsum("noi,nj->ij", g**2, h**2) / len(h) for h, g in flow.factors(y))
    divide = lambda diagonal, c, v: v / (1 + c * jnp.maximum(diagonal, 0))
    made = {
        "exact diagonal": Preconditioner(exact, divide, flow.size * flow.work),
        f"Hutchinson diagonal, {PROBES} probes": Preconditioner(estimated, divide, PROBES * flow.work),
        "Gauss-Newton diagonal": Preconditioner(outer, divide, flow.work_of_factors + 2 * flow.rows * flow.size),
    }
    return {name: each for name, each in made.items() if each.building <= MOST_FOR_DENSE * flow.work}


def kronecker(flow: Flow) -> Preconditioner:
    """I + c G⊗A for each layer, A = E[h hᵀ] and G = E[gᵀ g], through their eigenvectors."""

    def build(y, c):
        moments = [(h.T @ h / len(h), jnp.einsum("noi,nok->ik", g, g) / len(g)) for h, g in flow.factors(y)]
        return [(jnp.linalg.eigh(A), jnp.linalg.eigh(G)) for A, G in moments]

    def apply(built, c, v):
        divided = lambda V, A, G: (G[1].T @ V @ A[1]) / (1 + c * jnp.outer(G[0], A[0]))
        return _flat(G[1] @ divided(V, A, G) @ A[1].T for V, (A, G) in zip(flow.matrices(v), built, strict=True))

    shapes = [W.shape for W in flow.net.weights]
    moments = sum(2 * len(flow.data.x) * j**2 + 2 * flow.rows * i**2 for i, j in shapes)
    building = flow.work_of_factors + moments + sum(9 * (i**3 + j**3) for i, j in shapes)
    return Preconditioner(build, apply, building, applying=sum(4 * i * j * (i + j) for i, j in shapes))


def gauss_newton(flow: Flow, *, layer_wise: bool) -> Preconditioner:
    """I + cJᵀJ/n exactly: its inverse is I − Jᵀ(n/c + JJᵀ)⁻¹J, with the kernel JJᵀ = (h·h')(g·g') of each layer."""
    rows, blocks = flow.rows, len(flow.net.weights) if layer_wise else 1

    def build(y, c):
        factors = flow.factors(y)
        kernels = jnp.stack([jnp.einsum("nj,mj,noi,mpi->nomp", h, h, g, g).reshape(rows, rows) for h, g in factors])
        kernels = kernels if layer_wise else jnp.sum(kernels, axis=0, keepdims=True)
        return factors, jnp.linalg.cholesky(kernels + len(flow.data.x) / c * jnp.eye(rows))

    def apply(built, c, v):
        factors, choleskys = built
        image = lambda V, h, g: jnp.einsum("noi,ij,nj->no", g, V, h)
        images = jnp.stack([image(V, h, g) for V, (h, g) in zip(flow.matrices(v), factors, strict=True)])
        images = images if layer_wise else jnp.sum(images, axis=0, keepdims=True)
        solve = lambda cholesky, u: jax.scipy.linalg.cho_solve((cholesky, True), u.ravel()).reshape(u.shape)
        duals = jnp.broadcast_to(jax.vmap(solve)(choleskys, images), (len(factors), *images.shape[1:]))
        return v - _flat(jnp.einsum("no,noi,nj->ij", u, g, h) for u, (h, g) in zip(duals, factors, strict=True))

    kernels = sum(2 * rows**2 * sum(W.shape) for W in flow.net.weights)
    building = flow.work_of_factors + kernels + blocks * rows**3 / 3
    return Preconditioner(build, apply, building, applying=4 * rows * flow.size + 2 * blocks * rows**2)


def solve(flow: Flow, system: System, precondition: Callable) -> tuple[int, bool]:
    """Preconditioned conjugate gradients as NDF ends them: the products spent, and whether they converged."""
    at_y, r = flow.gradient(system.y), system.right
    small = lambda r: bool(np.sqrt(np.mean((r / system.scale) ** 2)) < system.bound)
    p = z = np.asarray(precondition(r))
    products = 0
    while not small(r) and products < _MOST_PRODUCTS:
        image = p + system.c * np.asarray(flow.product(system.y, at_y, p))
        products += 1
        if p @ image <= _NEGATIVE_CURVATURE * (p @ p):
            break
        before = r @ z
        r = r - before / (p @ image) * image
        z = np.asarray(precondition(r))
        p = z + (r @ z) / before * p
    return products, small(r)


def variants(flow: Flow, systems: list[System]) -> Iterator[tuple[str, Callable[[int], Callable], float, float]]:
    """Per preconditioner its name, what it does at system i, and the gradients that building and applying it cost."""
    yield "none", lambda i: lambda r: r, 0, 0
    by_layer, whole = gauss_newton(flow, layer_wise=True), gauss_newton(flow, layer_wise=False)
    blocks = {"Kronecker": kronecker(flow), "Gauss-Newton by layer": by_layer, "Gauss-Newton": whole}
    for name, made in (diagonals(flow) | blocks).items():
        build, apply = jax.jit(made.build), jax.jit(made.apply)
        for age in AGES if name in ("Kronecker", "Gauss-Newton") else (0,):
            built = lambda i, age=age, build=build: build(systems[max(i - age, 0)].y, systems[max(i - age, 0)].c)
            at = lambda i, apply=apply, built=built: partial(apply, built(i), systems[i].c)
            building = made.building / max(age, 1) / flow.work
            yield f"{name}, {age} steps old" if age else name, at, building, made.applying / flow.work

    eigenvectors = lru_cache(maxsize=None)(lambda i: flow.eigenvectors(systems[max(i, 0)].y, max(DEFLATED)))
    for m, age in product(DEFLATED, AGES):
        found = lambda i, m=m, age=age: (eigenvectors(i - age)[0][:, :m], eigenvectors(i - age)[1][:m])
        at = lambda i, found=found: partial(_deflate, found(i), systems[i].c)
        # Any way to refresh m vectors takes m products at least.
        yield f"{m} eigenvectors, {age} steps old", at, m / max(age, 1), 4 * m * flow.size / flow.work


def measure(flow: Flow, systems: list[System]) -> tuple[list[dict], dict]:
    """One row per preconditioner, and the medians of the largest eigenvalues of cH."""
    evenly = np.linspace(0, len(systems) - 1, min(SYSTEMS, len(systems))).round().astype(int)
    # Elsewhere negative curvature ends the solve, and NDF takes a smaller step.
    chosen = [int(i) for i in evenly if solve(flow, systems[i], lambda r: r)[1]]
    rows = []
    for name, at, building, applying in variants(flow, systems):
        products, converged = np.array([solve(flow, systems[i], at(i)) for i in chosen]).T
        row = {"preconditioner": name, "products": int(products.sum()), "median": float(np.median(products))}
        row |= {"failed": int((1 - converged).sum()), "building": building, "applying": applying}
        row["cost"] = row["products"] * (1 + applying) + len(chosen) * (1 + building)
        plain = rows[0] if rows else row
        rows.append(row | {f"{what} ratio": row[what] / plain[what] for what in ("products", "cost")})
    spectra = np.array([systems[i].c * flow.eigenvectors(systems[i].y, 17)[1] for i in chosen])
    about = {f"c lambda_{j}": float(np.median(spectra[:, j - 1])) for j in (1, 5, 9, 17)}
    return rows, {"systems": len(systems), "chosen": len(chosen)} | about


def table(cell: dict) -> str:
    """The rows of one problem at one tolerance."""
    about = ", ".join(f"{key} {value:.4g}" for key, value in cell["about"].items())
    titles = "".join(f"{title:>16}" for title in list(cell["rows"][0])[1:])
    line = lambda name, *numbers: f"{name:32}" + "".join(f"{number:16.4g}" for number in numbers)
    return "\n".join([about, " " * 32 + titles, *(line(*row.values()) for row in cell["rows"])])


def main() -> None:
    """Measure every problem at every tolerance, print tables and keep them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    problems = parser.parse_args().problems
    path = Path(__file__).parent / "results" / f"preconditioning-{jax.default_backend()}.json"
    path.parent.mkdir(exist_ok=True)
    for problem, rtol in product(problems, RTOLS):
        t1, make = PROBLEMS[problem]
        flow = Flow(*make())
        systems, stats = flow.systems(t1, rtol)
        rows, about = measure(flow, systems)
        about |= {key: float(stats[key]) for key in ("gradient_evaluations", "hessian_vector_products")}
        cell = {"about": {"parameters": flow.size, "t1": t1, "rtol": rtol} | about, "rows": rows}
        print(f"\n{problem}: {table(cell)}", flush=True)
        everything = json.loads(path.read_text()) if path.exists() else {}
        everything[f"{problem}, T = {t1:g}, rtol {rtol:g}"] = cell
        path.write_text(json.dumps(everything, indent=1))
    print(path)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
