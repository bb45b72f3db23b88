"""Optimizers beside the flows that they follow: how far apart they end, what each says about the ansatz, and the cost.

python benchmarks/optimizer_flows.py
python benchmarks/optimizer_flows.py --optimizers adam --rates 1e-3

A balanced linear network 8-8-8-3 on 60 noisy samples. `error` is min_c ‖NFM − c AGOP^{1/3}‖/‖NFM‖ at the end,
`distance` that of all parameters, relative. Gradients of flows are velocities plus twice the products with Jacobians
(a velocity of `Modified` and `RMSProp` takes a gradient and a Hessian product itself).
"""

import argparse

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import nfa_flow as nf
from nfa_flow.training import Descent, FlowOf

RATES = {"gd": [0.08, 0.04, 0.02, 0.01], "momentum": [0.008, 0.004, 0.002, 0.001]}
RATES |= {name: [4e-3, 2e-3, 1e-3, 5e-4] for name in ("adam", "adamw")}
ENDS = {"gd": 6.0, "momentum": 6.0, "adam": 2.0, "adamw": 2.0}
ERROR = nf.measure.alignment(1 / 3, metric="relative_error")


def main() -> None:
    """Print one line for each optimizer and learning rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizers", nargs="+", choices=RATES, default=list(RATES))
    parser.add_argument("--rates", type=float, nargs="+", help="by default four for each optimizer")
    parser.add_argument("--rtol", type=float, default=1e-8)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    key = jax.random.key(0)
    data = nf.data.linear_teacher(60, 8, 3, key=key, noise=0.1)
    net = nf.nets.MLP([8, 8, 8, 3], key=jax.random.key(1), init=nf.nets.Balanced(scale=0.3))
    print(f"{'':18}{'error':^39}{'distance from':^27}")
    print("optimizer    rate  optimizer      its flow  gradient flow    its flow  gradient flow   steps  gradients")
    for name in arguments.optimizers:
        for rate in arguments.rates or RATES[name]:
            line(name, rate, net, data, key, arguments.rtol)


def line(name: str, rate: float, net: nf.nets.MLP, data: nf.Dataset, key: jax.Array, rtol: float) -> None:
    """Train by an optimizer, by its flow and by gradient flow, and print what they give."""
    step = Descent(name, rate, 1).time_per_step
    descent = Descent(name, rate, round(ENDS[name] / step), adamw_decay=0.1)
    end = descent.steps * step
    run = descent(net, data, key, progress=False)
    own = FlowOf(descent, rtol=rtol)(net, data, key, save_at=[end], progress=False)
    flow = nf.gradient_flow(net, data, end, rtol=rtol, save_at=[end], progress=False)
    errors = [float(ERROR(each.net, data)) for each in (run, own, flow)]
    apart = [distance(run.net, each.net) for each in (own, flow)]
    gradients = own.stats["gradient_evaluations"] + 2 * own.stats.get("hessian_vector_products", 0)
    print(
        f"{name:<9} {rate:7g} {errors[0]:10.3e} {errors[1]:13.3e} {errors[2]:14.1e}"
        f" {apart[0]:11.1e} {apart[1]:14.1e} {descent.steps:7d} {gradients:10d}",
        flush=True,
    )


def distance(net: nf.nets.MLP, other: nf.nets.MLP) -> float:
    """Of all parameters, relative to those of the other."""
    a, b = (ravel_pytree(each.weights)[0] for each in (net, other))
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


if __name__ == "__main__":
    main()
