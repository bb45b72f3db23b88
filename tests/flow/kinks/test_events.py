"""Which kink is first on the wrong side within a step, of kinks whose values are straight lines."""

import jax.numpy as jnp
import pytest

from nfa_flow.flow.kinks.events import first_event

ALLOWED = 1e-12


def first(*lines):
    """The first event of kinks with these values and slopes at the start of the step."""
    start, slope = (jnp.array(each) for each in zip(*lines, strict=True))
    every = lambda x: start + slope * x
    allowed = jnp.full(len(lines), ALLOWED)
    event = first_event(start, slope, every(1.0), slope, allowed, lambda at, x: every(x)[at], every)
    return int(event.at), float(event.when)


def test_the_first_of_the_kinks_that_are_crossed_is_found():
    at, when = first((1.0, -1.5), (1.0, -3.0), (1.0, 3.0))
    assert at == 1 and when == pytest.approx(1 / 3, rel=1e-9)


def test_a_kink_that_starts_on_its_wrong_side_may_return_without_an_event():
    """Though it does not arrive there within the step."""
    assert first((1.0, 0.0), (-1e-8, 5e-9)) == (2, 1.0)


def test_a_kink_that_starts_on_its_wrong_side_and_moves_on_is_an_event_at_once():
    assert first((1.0, 0.0), (-1e-8, -5e-9)) == (1, 0.0)
