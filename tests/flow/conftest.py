"""A problem for the tests of the flow."""

import jax
import pytest

import nfa_flow as nf


@pytest.fixture(scope="module")
def data():
    return nf.data.multi_index(40, 5, 2, key=jax.random.key(0), noise=0.1)


@pytest.fixture(scope="module")
def net():
    return nf.nets.MLP([5, 8, 6, 1], key=jax.random.key(1), activation="tanh", bias=True)
