"""What the gradient of a result of a flow costs beside the run: in processor time, and in memory that XLA sets aside.

python benchmarks/derivatives.py
python benchmarks/derivatives.py --solver TSRKC3 --widths 20 32 1 --t1 100
"""

import argparse
import time

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import nfa_flow as nf

SOLVERS = {"NDF": nf.flow.NDF(), "TSRKC3": nf.flow.TSRKC3(), "Tsit5": diffrax.Tsit5()}


def main() -> None:
    """Print the cost of each derivative in units of the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solver", choices=SOLVERS, nargs="+", default=list(SOLVERS))
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--widths", type=int, nargs="+", default=[20, 32, 32, 1])
    parser.add_argument("--t1", type=float, nargs="+", default=[10.0, 100.0])
    parser.add_argument("--rtol", type=float, default=1e-6)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    n, widths = arguments.samples, arguments.widths
    print(f"tanh {'-'.join(map(str, widths))}, {n} samples, rtol {arguments.rtol:g}:\n")
    print(" " * 29 + "run   jvp: scale   grad: scale   grad: scale, decay, data   of losses at 30 times")
    for name in arguments.solver:
        for t1 in arguments.t1:
            steps, seconds, memory = costs(SOLVERS[name], n, widths, t1, arguments.rtol)
            row = lambda numbers: "{:8.2f}{:13.1f}{:14.1f}{:27.1f}{:24.1f}".format(*numbers)
            print(f"{name} to t = {t1:g} in {steps} steps")
            print(f"{'  time: s, runs':24}" + row([seconds[0], *(seconds[1:] / seconds[0])]))
            print(f"{'  memory: MiB':24}" + row(memory / 2**20), flush=True)


def costs(solver, n: int, widths: list[int], t1: float, rtol: float) -> tuple[int, np.ndarray, np.ndarray]:
    """The steps of the run, and the seconds and bytes of the run and of its derivatives."""
    keys = jax.random.split(jax.random.key(0), 3)
    net = nf.nets.MLP(widths, key=keys[0], activation="tanh")
    x = jax.random.normal(keys[1], (n, widths[0]))
    y = jnp.sin(x[:, :1] * x[:, 1:2]) + 0.1 * jax.random.normal(keys[2], (n, 1))
    times = nf.log_times(1e-2 * t1, t1, 30)

    def losses(scale, decay, x):
        started = net.with_weights([scale * W for W in net.weights])
        return nf.gradient_flow(
            started, nf.Dataset(x, y), t1, weight_decay=decay, solver=solver, rtol=rtol, save_at=times, progress=False
        )

    last = lambda *at: losses(*at).observed["loss"][-1]
    at = 1.0, 1e-3, x
    programs = (
        last,
        lambda *at: jax.jvp(lambda scale: last(scale, *at[1:]), at[:1], (1.0,))[1],
        jax.grad(last),
        jax.grad(last, argnums=(0, 1, 2)),
        jax.grad(lambda *at: jnp.sum(losses(*at).observed["loss"])),
    )
    compiled = [jax.jit(program).lower(*at).compile() for program in programs]
    seconds = np.array([[timed(program, at) for program in compiled] for _ in range(3)]).min(axis=0)
    memory = np.array([program.memory_analysis().temp_size_in_bytes for program in compiled])
    return losses(*at).stats["steps"], seconds, memory


def timed(program, at) -> float:
    """The processor time of a call: of a machine with other work it is less noisy than the time on the wall."""
    began = time.process_time()
    jax.block_until_ready(program(*at))
    return time.process_time() - began


if __name__ == "__main__":
    main()
