"""A short run of the random calls; the long one is `python tests/fuzz.py --calls 500 --seed 0`."""

import subprocess
import sys
from pathlib import Path


def test_random_calls_return_or_name_what_is_wrong():
    command = [sys.executable, Path(__file__).parent / "fuzz.py", "--calls", "60", "--seed", "4"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
