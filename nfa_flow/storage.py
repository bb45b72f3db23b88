"""Trajectories as labelled datasets and as Zarr stores. Nothing is pickled."""

import dataclasses
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray

from .checks import wrong
from .nets import ABC, MLP, Spectral
from .nets.activations import name_of
from .trajectory import STATUS, Trajectory, flatten, has_nan

WRITE: dict[str, Any] = {"consolidated": False, "zarr_format": 3}
READ: dict[str, Any] = {"consolidated": False, "engine": "zarr"}

_SCHEMES: dict[str, Any] = {each.__name__: each for each in (ABC, Spectral)}


def to_xarray(run: Trajectory) -> xarray.Dataset:
    """See `Trajectory.to_xarray`."""
    run, variables = run.reached(), {}
    for name, value in flatten(run.observed).items():
        array = np.asarray(value)
        dims = ("time", *(f"{name}[{axis}]" for axis in range(1, array.ndim)))
        variables[name] = xarray.Variable(dims, array, {"status": "undefined" if has_nan(array) else "defined"})
    coords = {"time": np.asarray(run.times), "step": ("time", np.asarray(run.steps))}
    attrs = {"status": run.status, "end_time": float(run.end_time)}
    attrs |= {name: "unknown" if value is None else value for name, value in run.stats.items()}
    return xarray.Dataset(variables, coords, attrs)


def save(run: Trajectory, path: str | os.PathLike) -> Path:
    """Write a trajectory as a Zarr store: observations in the root, the networks' arrays in groups beside them.

    The store is complete when it appears under its name, whatever interrupts the writing.

    **Raises:** ValueError when `path` holds something else than a Zarr store, which is not ours to replace.
    """
    path = Path(path)
    if path.exists() and not (path / "zarr.json").is_file():
        raise wrong("path", "a new path or an earlier store", f"{path}, which holds something else")
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    to_xarray(run).to_zarr(partial, mode="w", **WRITE)
    names = json.dumps({"counts": list(run.counts), "notes": [name for name, _ in run.notes]})
    net = _arrays(run.net).assign_attrs(stats=names, network=json.dumps(_describe(run.net)))
    net.to_zarr(partial, group="net", mode="a", **WRITE)
    if run.nets is not None:
        _arrays(run.nets).to_zarr(partial, group="nets", mode="a", **WRITE)
    shutil.rmtree(path, ignore_errors=True)
    os.replace(partial, path)
    return path


def load(path: str | os.PathLike, like: Any) -> Trajectory:
    """See `Trajectory.load`."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no trajectory at {path}.")
    observations = xarray.load_dataset(path, **READ)
    if observations["time"].dtype == np.float64 and not jax.config.read("jax_enable_x64"):
        warnings.warn(f"{path} holds float64, loaded as float32: set jax_enable_x64 to keep it.", stacklevel=3)
    net = xarray.load_dataset(path, group="net", **READ)
    stats = json.loads(net.attrs["stats"])
    like = _rebuild(json.loads(net.attrs["network"])) if like is None else like
    attrs = {name: None if value == "unknown" else value for name, value in observations.attrs.items()}
    return Trajectory(
        times=jnp.asarray(observations["time"].values),
        steps=jnp.asarray(observations["step"].values),
        observed={str(name): jnp.asarray(variable.values) for name, variable in observations.data_vars.items()},
        net=_fill(like, net),
        nets=_fill(like, xarray.load_dataset(path, group="nets", **READ)) if (path / "nets").exists() else None,
        end_time=jnp.asarray(attrs["end_time"]),
        status_code=jnp.asarray(next(code for code, name in STATUS.items() if name == attrs["status"])),
        counts={name: attrs[name] for name in stats["counts"]},
        notes=tuple((name, str(attrs[name])) for name in stats["notes"]),
    )


def _arrays(net: Any) -> xarray.Dataset:
    arrays = {name: np.asarray(array) for name, array in flatten(eqx.filter(net, eqx.is_inexact_array)).items()}
    return xarray.Dataset({name: ([f"{name}_{axis}" for axis in range(a.ndim)], a) for name, a in arrays.items()})


def _fill(like: Any, arrays: xarray.Dataset) -> Any:
    """`like` with its inexact arrays replaced by the stored ones (which may lead with a time axis)."""
    if like is None:
        return None
    parameters, rest = eqx.partition(like, eqx.is_inexact_array)
    expected, stored = flatten(parameters), {str(name) for name in arrays.data_vars}
    if expected.keys() != stored:
        raise wrong("like", f"a network with the arrays {sorted(stored)}", f"one with {sorted(expected)}")
    for name, array in expected.items():
        if (shape := arrays[name].shape[-array.ndim :] if array.ndim else ()) != array.shape:
            raise wrong("like", f"a network whose {name} has shape {shape}", f"one of shape {array.shape}")
    values = [jnp.asarray(arrays[name].values) for name in expected]
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(parameters), values), rest)


def _describe(net: Any) -> dict[str, Any] | None:
    """What rebuilds an `MLP` with named activations and a parametrisation of this library; None for any other."""
    names = [name_of(activation) for activation in net.activations] if type(net) is MLP else [None]
    if None in names or type(net.parametrization) not in (*_SCHEMES.values(), type(None)):
        return None
    scheme: Any = net.parametrization
    kept = None if scheme is None else {"kind": type(scheme).__name__} | dataclasses.asdict(scheme)
    return {
        "widths": net.widths,
        "activation": names,
        "bias": net.layers[0].bias is not None,
        "parametrization": kept,
    }


def _rebuild(description: dict[str, Any] | None) -> MLP | None:
    if description is None:
        return None
    scheme = description.pop("parametrization", None)  # which older stores do not have
    if scheme is not None:
        scheme = _SCHEMES[scheme.pop("kind")](**scheme)
    return MLP(**description, parametrization=scheme, key=jax.random.key(0))
