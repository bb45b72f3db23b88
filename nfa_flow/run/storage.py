"""Trajectories as labeled datasets and as Zarr stores. Nothing is pickled."""

import dataclasses
import json
import os
import re
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray

from ..checks import is_traced, wrong
from ..nets import ABC, MLP, Spectral
from ..nets.activations import name_of
from .files import read_folder, require_parents, require_path, settle, standing, write_folder
from .intact import digests_of, files_in, first_damage, is_metadata, set_attributes
from .processes import Processes, complete
from .status import STATUS
from .trajectory import Trajectory
from .trees import flatten, has_nan

WRITE: dict[str, Any] = {"consolidated": False, "zarr_format": 3}
READ: dict[str, Any] = {"consolidated": False, "engine": "zarr"}

_ABOUT = "net/zarr.json"  # its attributes hold what is neither observed nor a weight
_DTYPE = "dtype"  # attribute of arrays whose own type Zarr does not know
_SCHEMES: dict[str, Any] = {each.__name__: each for each in (ABC, Spectral)}


def to_xarray(run: Trajectory) -> xarray.Dataset:
    """See `Trajectory.to_xarray`."""
    if is_traced(run.times):
        raise ValueError("`to_xarray` and `save` need the numbers of a run: call them outside of `jax.jit`.")
    run.require_one_run("to_xarray")
    run, variables = run.reached(), {}
    for name, value in flatten(run.observed).items():
        array, attrs = plain(value)
        dims = ("time", *(f"{name}[{axis}]" for axis in range(1, array.ndim)))
        variables[name] = xarray.Variable(dims, array, attrs | {"status": "undefined" if has_nan(array) else "defined"})
    (times, attrs), steps = plain(run.times), np.asarray(run.steps)
    coords = {"time": xarray.Variable("time", times, attrs), "step": ("time", steps)}
    attrs = {"status": run.status, "end_time": float(run.end_time)}
    attrs |= {name: "unknown" if value is None else value for name, value in run.stats.items()}
    return xarray.Dataset(variables, coords, attrs)


def save(run: Trajectory, path: str | os.PathLike) -> Path:
    """Write a trajectory as a Zarr store: observations in the root, the networks' arrays in groups below it.

    The store is complete when it appears under its name, and an older one stays until then.

    **Raises:** ValueError if `path` holds anything but a trajectory, which is never replaced; TypeError if it is not a
    path.
    """
    path = require_path("path", path)
    require_parents("path", path)
    run.require_one_run("save")
    if path.exists() and (found := _foreign(path)):
        raise wrong("path", "a new path or an earlier trajectory", f"{path}, which holds {found}")
    net, nets = jax.tree.map(complete, (run.net, run.nets))
    is_leader, run = Processes(run).is_leader, dataclasses.replace(run, net=net, nets=nets)
    return write_folder(path, partial(_write, run)) if is_leader else path


def load(path: str | os.PathLike, like: Any) -> Trajectory:
    """See `Trajectory.load`."""
    path = require_path("path", path)
    if standing(path) is None:
        raise FileNotFoundError(f"There is no trajectory at {path}.")
    return read_folder(path, partial(_read, like=like))


def is_trajectory(path: Path) -> bool:
    """Whether there is a trajectory at a path, damaged or not."""
    try:
        return _about(path) is not None
    except ValueError:
        return True


def remove(path: Path) -> None:
    """Delete the trajectory at a path, if there is one.

    **Raises:** ValueError when it is anything else.
    """
    settle(path)
    if path.exists():
        if found := _foreign(path):
            raise wrong("path", "a trajectory", f"{path}, which holds {found}")
        shutil.rmtree(path)


def _write(run: Trajectory, folder: Path) -> None:
    to_xarray(run).to_zarr(folder, mode="w", **WRITE)
    nets = {"net": run.net} if run.nets is None else {"net": run.net, "nets": run.nets}
    for group, net in nets.items():
        _arrays(net).to_zarr(folder, group=group, mode="a", **WRITE)
    about = {
        "stats": json.dumps({"counts": list(run.counts), "notes": [name for name, _ in run.notes]}),
        "network": json.dumps(_describe(run.net)),
        "digests": digests_of(folder),
    }
    set_attributes(folder / _ABOUT, about)


def _read(path: Path, like: Any) -> Trajectory:
    if _about(path) is None:
        is_sweep = (path / "runs").is_dir() and (path / "zarr.json").is_file()
        advice = "a sweep: read it with `nf.load_sweep`" if is_sweep else "something else"
        raise wrong("path", "a trajectory that `save` wrote", f"{path}, which holds {advice}")
    _require_undamaged(path)
    try:
        groups = {name: xarray.load_dataset(path, group=name or None, **READ) for name in _groups(path)}
        attrs = {name: None if value == "unknown" else value for name, value in groups[""].attrs.items()}
        stats, network = (json.loads(groups["net"].attrs[name]) for name in ("stats", "network"))
        observed = {name: _restored(groups[""][name]) for name in sorted(map(str, groups[""].data_vars))}
        run = Trajectory(
            times=_restored(groups[""]["time"]),
            steps=_restored(groups[""]["step"]),
            observed=observed,
            net=None,
            nets=None,
            end_time=jnp.asarray(attrs["end_time"]),
            status_code=jnp.asarray(next(code for code, name in STATUS.items() if name == attrs["status"])),
            counts={name: attrs[name] for name in stats["counts"]},
            notes=tuple((name, str(attrs[name])) for name in stats["notes"]),
        )
    except Exception as error:  # whatever the metadata of a damaged store lead to
        raise _damaged(path, f"cannot be read ({type(error).__name__}: {error})") from error
    if groups[""]["time"].dtype == np.float64 and not jax.config.read("jax_enable_x64"):
        warnings.warn(f"{path} holds float64, loaded as float32: set jax_enable_x64 to keep it.", stacklevel=5)
    like = _rebuild(network) if like is None else like
    net, nets = (_fill(like, groups[name]) if name in groups else None for name in ("net", "nets"))
    return dataclasses.replace(run, net=net, nets=nets)


def _groups(path: Path) -> list[str]:
    return ["", "net", *(["nets"] if (path / "nets").exists() else [])]


def _about(path: Path) -> dict[str, Any] | None:
    """The data of a trajectory other than observations and weights; None if it is not a trajectory."""
    try:
        attributes = json.loads((path / _ABOUT).read_text(encoding="utf-8"))["attributes"]
        return attributes if {"stats", "network"} <= attributes.keys() else None
    except (OSError, KeyError, TypeError, AttributeError):
        return None
    except ValueError:
        raise _damaged(path / _ABOUT, "is no JSON") from None


def _foreign(path: Path) -> str | None:
    """The content of a path that `save` must not delete, in words; None if there is nothing."""
    about = _about(path)
    if about is None:
        return "something else"
    ours = set(about.get("digests", ()))  # older stores have none
    others = (file for file in files_in(path) if ours and file not in ours and not is_metadata(file))
    return next((f"{file} besides" for file in others), None)


def _require_undamaged(path: Path) -> None:
    """Raise ValueError that names the first file that has changed since `save` wrote it."""
    if damage := first_damage(path, (_about(path) or {}).get("digests", {})):
        raise _damaged(*damage)


def _damaged(file: Path, how: str) -> ValueError:
    return ValueError(
        f"The trajectory is damaged: {file} {how}. Remove the store and run again, or restore it from a copy."
    )


def plain(array: Any) -> tuple[np.ndarray, dict[str, str]]:
    """An array in a type that NumPy and Zarr know, and its own type if that is another one (bfloat16, float8, int4)."""
    array = np.asarray(array)
    if array.dtype.type.__module__ != "ml_dtypes":  # `isbuiltin` is not true of an array that was unpickled
        return array, {}
    wider = np.float32 if jnp.issubdtype(array.dtype, jnp.floating) else np.int8
    return array.astype(wider), {_DTYPE: array.dtype.name}


def _restored(variable: xarray.DataArray) -> jax.Array:
    return jnp.asarray(variable.values, variable.attrs.get(_DTYPE))


def _arrays(net: Any) -> xarray.Dataset:
    variables = {}
    for name, value in flatten(eqx.filter(net, eqx.is_inexact_array)).items():
        array, attrs = plain(value)
        variables[_stored(name)] = ([f"{name}_{axis}" for axis in range(array.ndim)], array, attrs)
    return xarray.Dataset(variables)


def _stored(name: str) -> str:
    """The name of an array as the name of a folder; keys of a dictionary may contain other characters."""
    return name if re.fullmatch(r"\w[\w. -]*", name) else "%" + quote(name, safe="")


def _fill(like: Any, arrays: xarray.Dataset) -> Any:
    """`like` with its inexact arrays replaced by the stored ones (which may lead with a time axis)."""
    if like is None:
        return None
    parameters, rest = eqx.partition(like, eqx.is_inexact_array)
    expected = {_stored(name): array for name, array in flatten(parameters).items()}
    stored = {str(name) for name in arrays.data_vars}
    if expected.keys() != stored:
        raise wrong("like", f"a network with the arrays {sorted(stored)}", f"one with {sorted(expected)}")
    for name, array in expected.items():
        if (shape := arrays[name].shape[-array.ndim :] if array.ndim else ()) != array.shape:
            raise wrong("like", f"a network whose {name} has shape {shape}", f"one of shape {array.shape}")
    values = [_restored(arrays[name]) for name in expected]
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(parameters), values), rest)


def _describe(net: Any) -> dict[str, Any] | None:
    """What rebuilds an `MLP` with named activations and a parametrization of this library; None for any other."""
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
