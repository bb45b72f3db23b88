"""Every bad argument is a ValueError that names it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfa_flow as nf

KEY = jax.random.key(0)
DATA = nf.data.linear_teacher(10, 3, 2, key=KEY)
NET = nf.nets.MLP([3, 4, 2], key=KEY)

GROWS = optax.GradientTransformation(
    lambda parameters: jnp.zeros(1), lambda gradient, state, parameters: (gradient, jnp.append(state, 0.0))
)

BAD = [
    ({"steps": 0}, "`steps` must be a whole number of at least 1, but was 0"),
    ({"steps": 2.0}, "`steps` must be a whole number"),
    ({"steps": True}, "`steps` must be a whole number"),
    ({"optimizer": 0.1}, "`optimizer` must be an optax optimizer"),
    ({"optimizer": optax.sgd}, "`optimizer` must be an optax optimizer"),
    ({"optimizer": optax.lbfgs()}, "`optimizer` must be one that needs gradients and one set of parameters only"),
    ({"optimizer": optax.polyak_sgd()}, "`optimizer` must be one that needs gradients .* 'value'"),
    ({"optimizer": optax.lookahead(optax.sgd(0.1), 3, 0.5)}, "`optimizer` must be one .* one set of parameters only"),
    ({"optimizer": optax.MultiSteps(optax.sgd(0.1), 2)}, r"`optimizer` must be .* its `.gradient_transformation\(\)`"),
    ({"optimizer": GROWS}, r"`optimizer` must be one whose state keeps its shapes and dtypes, .*\(1,\).* to .*\(2,\)"),
    ({"batch_size": 11, "key": KEY}, "`batch_size` must be at most the number of samples, 10, but was 11"),
    ({"batch_size": 0, "key": KEY}, "`batch_size` must be a whole number of at least 1"),
    ({"batch_size": 2.5, "key": KEY}, "`batch_size` must be a whole number"),
    ({"batch_size": 5}, "`key` must be a PRNG key such as .* when `batch_size` is given"),
    ({"batch_size": 5, "key": 3}, "`key` must be one PRNG key, .* but was 3"),
    ({"time_per_step": 0.0}, "`time_per_step` must be a positive number"),
    ({"time_per_step": np.nan}, "`time_per_step` must be a positive number"),
    ({"weight_decay": -0.1}, "`weight_decay` must be a non-negative number, but was -0.1"),
    ({"weight_decay": np.nan}, "`weight_decay` must be a non-negative number, but was nan"),
    ({"weight_decay": np.inf}, "`weight_decay` must be a non-negative number"),
    ({"loss": "hinge"}, "`loss` must be one of"),
    ({"loss": 3}, "`loss` must be a name or a function"),
    ({"loss": lambda prediction, target: prediction - target}, "`loss` must be a function with one scalar"),
    ({"save_at": []}, "`save_at` must be a non-empty sequence"),
    ({"save_at": [0, 5, 3]}, "`save_at` must be strictly increasing"),
    ({"save_at": [0, 3, 3]}, "`save_at` must be strictly increasing"),
    ({"save_at": [0, 6]}, r"`save_at` must be strictly increasing step numbers in \[0, 5\]"),
    ({"save_at": [-1, 2]}, "`save_at` must be strictly increasing step numbers"),
    ({"save_at": [0.0, 2.0]}, "`save_at` must be a non-empty sequence of whole step numbers"),
    ({"save_at": [[0, 1]]}, "`save_at` must be a non-empty sequence of whole step numbers"),
    ({"net": nf.nets.MLP([4, 4, 2], key=KEY)}, "`data` must be of 4 inputs, like the network, but was of 3"),
    ({"net": nf.nets.MLP([3, 4, 1], key=KEY)}, "`net` must be a map to 2 outputs, like the data"),
    ({"net": jnp.tanh}, "`net` must be an Equinox module with floating-point parameters"),
    ({"net": NET.with_weights([np.full((4, 3), np.nan), np.ones((2, 4))])}, "`net` must be finite everywhere"),
    ({"observe": [nf.measure.loss]}, "`observe` must be a mapping from names to functions"),
    ({"observe": {"loss": 3.0}}, r'`observe\["loss"\]` must be a function'),
    ({"observe": {"time": nf.measure.loss}}, "`observe` must be a mapping .* other than time, step, net, nets"),
    ({"observe": {"a/b": nf.measure.loss}}, "`observe` must be a mapping .* other than time, step, net, nets"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_arguments_are_named(change, message, no_type_checks):
    arguments = {"net": NET, "data": DATA, "optimizer": optax.sgd(0.1), "steps": 5, "progress": False}
    with pytest.raises(ValueError, match=message):
        nf.gradient_descent(**arguments | change)
