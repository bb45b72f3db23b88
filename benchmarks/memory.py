"""The memory that gradients and Hessian products take in chunks of samples, by XLA's account. Nothing is evaluated.

python benchmarks/memory.py
python benchmarks/memory.py --samples 1000 --widths 100 50 50 1
"""

import argparse

import jax
import numpy as np

import nfa_flow as nf
from nfa_flow.problem.memory import within_memory
from nfa_flow.problem.objective import make_objective

GIB = 2**30


def main() -> None:
    """Print what a whole batch takes, and what is taken where less is allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--widths", type=int, nargs="+", default=[3072, 1024, 1024, 1024, 10])
    parser.add_argument("--memory", type=float, nargs="+", default=[2, 0.5, 0.125, 0.03125], help="in GiB")
    arguments = parser.parse_args()
    n, widths = arguments.samples, arguments.widths
    net = nf.nets.MLP(widths, key=jax.random.key(0), activation="tanh", dtype="float32")
    data = nf.Dataset(np.zeros((n, widths[0]), np.float32), np.zeros((n, widths[-1]), np.float32))
    parameters, whole = make_objective(net, data, "mse", 0.0)
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) / GIB for tree in (data, parameters)]
    print(
        f"{'-'.join(map(str, widths))}, {n} samples, float32: data {sizes[0]:.3f} GiB, parameters {sizes[1]:.3f} GiB\n"
    )
    print("allowed, GiB  at once   gradient, GiB   Hessian product, GiB")
    allowed = {"all": whole} | {
        f"{each:g}": within_memory(whole, parameters, int(each * GIB)) for each in arguments.memory
    }
    for name, objective in allowed.items():
        gradient = taken(lambda objective, p: objective.gradient(p), objective, parameters)
        product = taken(lambda objective, p, v: objective.hessian_product(p, v), objective, parameters, parameters)
        print(f"{name:>12} {objective.at_once or n:8d} {gradient / GIB:15.3f} {product / GIB:22.3f}", flush=True)


def taken(function, *arguments) -> int:
    """The bytes that a compiled function takes beside its arguments and results."""
    return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


if __name__ == "__main__":
    main()
