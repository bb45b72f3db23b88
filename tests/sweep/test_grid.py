"""Grids: what is combined with what, under which names, and which mistakes are told."""

import jax.numpy as jnp
import numpy as np
import pytest

import nfa_flow as nf


def test_every_combination_comes_once_the_last_axis_fastest():
    grid = nf.Grid(depth=[2, 3], weight_decay=[0.0, 0.1, 0.2])
    assert len(grid) == 6
    assert [setting.values for setting in grid] == [
        {"depth": depth, "weight_decay": decay} for depth in (2, 3) for decay in (0.0, 0.1, 0.2)
    ]
    assert [setting.index for setting in grid] == [(i, j) for i in range(2) for j in range(3)]


def test_a_grid_without_axes_is_one_run():
    assert [setting.values for setting in nf.Grid()] == [{}]


def test_whole_numbers_among_fractions_become_fractions():
    values = [setting.values["decay"] for setting in nf.Grid(decay=[0, 1e-3])]
    assert values == [0.0, 1e-3] and all(type(value) is float for value in values)


def test_numbers_of_numpy_and_jax_are_taken_as_pythons_own():
    values = [setting.values["scale"] for setting in nf.Grid(scale=jnp.array([0.5, 2.0]))]
    assert values == [0.5, 2.0] and all(type(value) is float for value in values)
    assert [setting.values["seed"] for setting in nf.Grid(seed=np.arange(3))] == [0, 1, 2]


def test_zipped_axes_advance_together_along_the_first():
    grid = nf.Grid(nf.zipped(width=[64, 256], scale=[0.3, 0.1]), seed=range(3))
    assert len(grid) == 6
    assert {(s.values["width"], s.values["scale"]) for s in grid} == {(64, 0.3), (256, 0.1)}
    assert grid.dimensions == {"width": (64, 256), "seed": (0, 1, 2)}
    dims, labels = grid.coordinates["scale"]
    assert dims == ("width",) and labels.tolist() == [0.3, 0.1]


def test_a_function_of_axes_is_a_setting_and_a_coordinate_but_no_dimension():
    grid = nf.Grid(depth=[2, 4], seed=range(2), power=lambda depth: 1 / depth)
    assert list(grid.dimensions) == ["depth", "seed"]
    assert [setting.values["power"] for setting in grid] == [0.5, 0.5, 0.25, 0.25]
    dims, labels = grid.coordinates["power"]
    assert dims == ("depth",) and labels.tolist() == [0.5, 0.25]


def test_a_function_of_several_axes_varies_along_all_of_them():
    grid = nf.Grid(nf.zipped(a=[1, 2], b=[10, 20]), c=[100, 200], total=lambda b, c: b + c)
    dims, labels = grid.coordinates["total"]
    assert dims == ("a", "c") and labels.tolist() == [[110, 210], [120, 220]]


def test_a_rule_may_have_parameters_of_its_own_with_defaults():
    grid = nf.Grid(depth=[2, 4], scale=[1.0], power=lambda depth, base=1.0, scale=7.0: base * scale / depth)
    assert [setting.values["power"] for setting in grid] == [0.5, 0.25]
    assert grid.coordinates["power"][0] == ("depth", "scale")
    with pytest.raises(ValueError, match=r"`power` must be a function of axes \(depth\), but was of base"):
        nf.Grid(depth=[2], power=lambda depth, base: depth)


def test_whole_numbers_among_the_fractions_of_a_rule_become_fractions():
    grid = nf.Grid(depth=[1, 2, 4], power=lambda depth: 1 if depth == 1 else 1 / depth)
    values = [setting.values["power"] for setting in grid]
    assert values == [1.0, 0.5, 0.25] and all(type(value) is float for value in values)


def test_one_and_one_point_zero_are_the_same_run():
    (whole,), (fraction, _) = nf.Grid(decay=[0]), nf.Grid(decay=[0, 0.1])
    assert whole.identities == fraction.identities


def test_values_behind_labels_identify_a_run():
    one, other = (nf.Grid(init={"small": nf.nets.Gaussian(scale)}) for scale in (0.1, 0.2))
    (a,), (b,) = one, other
    assert a.labels == b.labels == {"init": "small"}
    assert a.identities != b.identities
    assert a.values["init"] == nf.nets.Gaussian(0.1)


def test_new_values_change_no_identity():
    short = {str(s.identities) for s in nf.Grid(decay=[0.0, 0.1], seed=range(2))}
    long = {str(s.identities) for s in nf.Grid(decay=[0.05, 0.0, 0.1], seed=range(5))}
    assert short < long


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"depth": []}, "`depth` must be an axis with at least one value, but was empty"),
        ({"depth": [2, 3, 2]}, "`depth` must be an axis of distinct values, but was 2 more than once"),
        ({"decay": [0, 0.0]}, "`decay` must be an axis of distinct values"),
        ({"depth": 3}, "`depth` must be a list of values"),
        ({"activation": "relu"}, "`activation` must be a list of values"),
        ({"seed": [0.5]}, "`seed` must be an axis of whole numbers"),
        ({"seed": [-1]}, "`seed` must be an axis of whole numbers"),
        ({"time": [1, 2]}, "`Grid` must be axes with names other than"),
        ({"method": ["flow", "adam"]}, "`Grid` must be axes with names other than"),
        ({"init": [nf.nets.Balanced()]}, "`init` must be an axis of numbers, words or functions"),
        ({"power": lambda depth: depth}, "`power` must be a function of axes"),
    ],
)
def test_mistakes_are_told(axes, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        nf.Grid(**axes)


def test_zipped_axes_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="axes of equal length, but was a of 2, b of 3"):
        nf.zipped(a=[1, 2], b=[1, 2, 3])


def test_an_axis_given_twice_is_refused():
    with pytest.raises(ValueError, match="`a` must be one axis"):
        nf.Grid(nf.zipped(a=[1, 2]), a=[3])


def test_a_grid_prints_its_size():
    grid = nf.Grid(nf.zipped(width=[1, 2], scale=[3, 4]), seed=range(8))
    assert repr(grid) == "Grid(16 runs: width & scale 2 x seed 8)"
