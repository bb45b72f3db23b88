"""Importing the library loads nothing that only some uses need, and sets nothing."""

import subprocess
import sys

HEAVY = ["sklearn", "matplotlib", "xarray", "zarr", "pandas", "scipy", "rich", "tyro"]


def test_import_loads_no_heavy_package_and_changes_no_jax_setting():
    code = (
        "import jax, diffrax, equinox, optax, sys; before = set(sys.modules), dict(jax.config.values); "
        "import nfa_flow; "
        f"loaded = {{name.split('.')[0] for name in set(sys.modules) - before[0]}} & set({HEAVY}); "
        "assert not loaded, loaded; assert dict(jax.config.values) == before[1]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
