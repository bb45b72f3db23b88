"""Data divided among four devices, and among two processes, give the results of one device.

The scripts beside this file hold the facts; each runs once, because starting and compiling take most of the time.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def start(script, devices, *arguments):
    """A process of its own that sees the processor as so many devices."""
    environment = os.environ | {
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, HERE / script, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def require_success(*processes):
    try:
        for process in processes:
            output, errors = process.communicate(timeout=500)
            assert process.returncode == 0 and output.splitlines()[-1] == "done", output + errors[-3000:]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.timeout(600)
def test_four_devices_compute_what_one_does():
    require_success(start("four_devices.py", 4))


@pytest.mark.timeout(600)
def test_two_processes_compute_what_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    require_success(*(start("two_processes.py", 2, rank, port, tmp_path) for rank in range(2)))
