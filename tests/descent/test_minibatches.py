"""Minibatches: every epoch passes the samples once, in an order that the key decides.

With unit vectors as inputs and targets zero, one layer of weights 1 is a record of the visits: a step at rate η with
batches of size b multiplies the weights of the samples in its batch by 1 − η/b and leaves all others alone.
"""

import jax
import numpy as np
import optax
from oracles import linear_net, relative

import nfa_flow as nf

RATE = 0.5
FIRST = jax.random.key(5)
OPTIMIZER = optax.sgd(RATE)


def visits(samples, batch_size, steps, key=FIRST):
    """How often each sample was visited after 0, 1, 2 … steps."""
    net, data = linear_net([np.ones((1, samples))]), nf.Dataset(np.eye(samples), np.zeros(samples))
    run = nf.gradient_descent(
        net,
        data,
        OPTIMIZER,
        steps,
        batch_size=batch_size,
        key=key,
        save_at=range(steps + 1),
        save_nets=True,
        progress=False,
    )
    assert run.stats["batch"] == f"{batch_size} samples"
    counts = np.log(np.asarray(run.nets.weights[0])[:, 0, :]) / np.log1p(-RATE / batch_size)
    np.testing.assert_allclose(counts, counts.round(), atol=1e-9)
    return counts.round().astype(int)


def test_every_epoch_visits_every_sample_once_in_another_order():
    counts = visits(12, 3, 12)
    np.testing.assert_array_equal(counts.sum(axis=1), 3 * np.arange(13))
    for epoch in range(4):
        np.testing.assert_array_equal(counts[4 * epoch], epoch)
    batches = np.diff(counts, axis=0).reshape(3, 4, 12)
    assert not np.array_equal(batches[0], batches[1])


def test_what_does_not_fill_a_batch_waits_for_the_next_epoch():
    counts = visits(10, 4, 12)
    per_epoch = np.diff(counts[::2], axis=0)
    assert set(per_epoch.ravel()) == {0, 1}
    np.testing.assert_array_equal(per_epoch.sum(axis=1), 8)
    assert len({tuple(np.flatnonzero(row == 0)) for row in per_epoch}) > 1


def test_the_key_decides_the_order():
    np.testing.assert_array_equal(visits(12, 3, 12, FIRST), visits(12, 3, 12, FIRST))
    assert not np.array_equal(visits(12, 3, 12, FIRST), visits(12, 3, 12, jax.random.key(6)))


def test_a_batch_of_all_samples_is_the_full_batch():
    data = nf.data.multi_index(20, 4, 2, key=jax.random.key(0))
    data = nf.Dataset(data.x, data.y, np.arange(1, 21) / 210)
    net = nf.nets.MLP([4, 5, 1], key=jax.random.key(1), activation="tanh")
    optimizer = optax.sgd(0.1, momentum=0.9)
    train = lambda **options: nf.gradient_descent(
        net, data, optimizer, 40, time_per_step=1.0, progress=False, **options
    )
    full, batch = train(), train(batch_size=20, key=jax.random.key(0))
    assert full.stats["batch"] == "full"
    for ours, theirs in zip(batch.net.weights, full.net.weights, strict=True):
        assert relative(ours - theirs, theirs) < 1e-12


def test_keys_of_the_old_kind_are_keys():
    np.testing.assert_array_equal(visits(12, 3, 12, jax.random.key(5)), visits(12, 3, 12, jax.random.PRNGKey(5)))
