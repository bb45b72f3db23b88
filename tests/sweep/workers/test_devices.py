"""Several devices on one machine: one program on each, nothing exchanged, the same results."""

import os
import subprocess
import sys

SCRIPT = """
import jax
import numpy as np
import nfa_flow as nf
from nfa_flow.sweep.workers import local
from sweep.problems import linear

assert len(jax.local_devices()) == 2
used, run = set(), local.LocalWorkers._run
def seen(self, job):
    used.add(jax.numpy.zeros(()).device)
    run(self, job)
local.LocalWorkers._run = seen
grid = nf.Grid(weight_decay=[0, 0.1], seed=range(30))
for batch in ("sequential", "vmap"):
    used.clear()
    dataset = nf.sweep(linear, grid, batch=batch, progress=False)
    assert used == set(jax.local_devices()), used
    for seed in (0, 17, 29):
        alone = linear(jax.random.key(seed), weight_decay=0.1).observed["loss"]
        np.testing.assert_allclose(dataset["loss"].sel(weight_decay=0.1, seed=seed), alone, rtol=1e-11)
executables = jax.local_devices()[0].client.live_executables()
programs = [module.to_string() for executable in executables for module in executable.hlo_modules()]
assert sum("advance" in text for text in programs) >= 4
assert not any(word in text for text in programs for word in ("all-reduce", "all-gather", "collective"))
print("done")
"""


def test_every_device_runs_lanes_of_its_own():
    folder = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    environment = os.environ | {
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2",
        "PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]),
    }
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "done"
