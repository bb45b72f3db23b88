"""Importing the library loads nothing that only some uses need, and sets nothing."""

import subprocess
import sys

import pytest

import nfa_flow as nf

HEAVY = ["sklearn", "matplotlib", "xarray", "zarr", "pandas", "scipy", "rich", "tyro"]


def test_import_loads_no_heavy_package_and_changes_no_jax_setting_and_studies_come_when_they_are_used():
    code = (
        "import jax, diffrax, equinox, optax, sys; before = set(sys.modules), dict(jax.config.values); "
        "import nfa_flow; "
        f"loaded = {{name.split('.')[0] for name in set(sys.modules) - before[0]}} & set({HEAVY}); "
        "assert not loaded, loaded; assert dict(jax.config.values) == before[1]; "
        "nf = nfa_flow; assert 'studies' in dir(nf); assert 'nfa_flow.studies' not in sys.modules; "
        "assert nf.studies.neural_feature_ansatz.name == 'nfa'; assert nf.studies is sys.modules['nfa_flow.studies']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_commands_that_run_no_study_do_not_import_the_studies():
    code = (
        "import contextlib, sys; from nfa_flow.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['flow', '--help'])\n"
        "assert 'nfa_flow.studies' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_name_that_the_library_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'study'"):
        nf.study  # noqa: B018  (the attribute raises)
