"""How much `import nfa_flow` costs beyond jax, diffrax, equinox and optax: medians over fresh processes, in turn."""

import statistics
import subprocess
import sys

BASE = "import jax, diffrax, equinox, optax"
CODE = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"


def seconds(statement: str) -> float:
    """Seconds that a fresh interpreter takes for `statement`."""
    return float(subprocess.run([sys.executable, "-c", CODE.format(statement)], check=True, capture_output=True).stdout)


if __name__ == "__main__":
    pairs = [(seconds(BASE), seconds(f"{BASE}, nfa_flow")) for _ in range(11)]
    base, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    extra = statistics.median(with_ours - without for without, with_ours in pairs)
    print(f"{BASE}: {base:.2f} s; with nfa_flow: {ours:.2f} s; difference: {extra:.3f} s")
