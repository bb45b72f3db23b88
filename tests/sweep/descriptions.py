"""What the tests of descriptions share: objects of libraries, and how two descriptions differ."""

import collections
import datetime
import decimal
import fractions
import operator
import random

import numpy as np
import scipy.interpolate

OBJECTS = [  # of libraries, made anew at each call
    lambda: fractions.Fraction(1, 2),
    lambda: fractions.Fraction(1, 10),
    lambda: decimal.Decimal("0.5"),
    lambda: decimal.Decimal("0.50"),
    lambda: datetime.date(2024, 1, 2),
    lambda: datetime.date(2024, 1, 3),
    lambda: collections.deque([1, 2]),
    lambda: collections.deque([1, 3]),
    lambda: collections.deque([1, 3], maxlen=2),
    lambda: scipy.interpolate.CubicSpline([0.0, 1.0, 2.0], [0.0, 1.0, 4.0]),
    lambda: scipy.interpolate.CubicSpline([0.0, 1.0, 2.0], [0.0, 1.0, 5.0]),
    lambda: operator.itemgetter(0),
    lambda: operator.itemgetter(1),
    lambda: np.random.default_rng(0),
    lambda: np.random.default_rng(1),
    lambda: np.random.RandomState(0),
    lambda: np.random.RandomState(1),
    lambda: random.Random(0),
    lambda: random.Random(1),
]


def differences(one, other):
    return {name for name in one | other if one.get(name) != other.get(name)}
