"""Everything can be printed anywhere: on terminals and into pipes of any encoding, closed ones included."""

import jax
import numpy as np
import optax

import nfa_flow as nf

DATA = nf.data.linear_teacher(jax.random.key(0), 10, 3)
NET = nf.nets.MLP([3, 2, 1], key=jax.random.key(1), activation="relu", parametrization="muP")


def public_objects():
    yield from (DATA, NET, NET.parametrization, nf.nets.Balanced(), nf.Grid(depth=nf.looped([2, 3]), seed=range(3)))
    yield nf.gradient_flow(NET, DATA, 1.0, rtol=1e-2, progress=False)
    yield nf.gradient_descent(NET, DATA, optax.sgd(0.1), 2, progress=False)
    scaling = nf.width.Scaling(np.ones((2, 1)), 0.0, 0.1, 0.0, True)
    yield nf.width.CoordinateCheck(NET.parametrization, (2, 4), {"update 1": scaling})
    studies = nf.studies
    yield from (studies.neural_feature_ansatz, studies.rich_features)
    yield from (studies.spectral_condition, studies.one_step_spikes)


def test_public_objects_print_as_ascii():
    for thing in public_objects():
        assert str(thing).isascii(), str(thing)
