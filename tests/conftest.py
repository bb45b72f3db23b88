"""Settings shared by all tests: float64, as everything that is called exact needs it."""

import jax
import matplotlib
from hypothesis import settings

jax.config.update("jax_enable_x64", True)
matplotlib.use("Agg")

# Compilation makes the first example of a property slow, and its time says nothing.
settings.register_profile("nfa_flow", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("nfa_flow")
