"""The folder of `nfa-flow flow`: which runs it contains, and the settings of each of them.

A run is kept as long as the settings on which it depends do not change: with another learning rate of Adam, only Adam
is trained again. Only files written by this command are replaced.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checks import wrong
from ..run.files import require_parents, standing, write_file

FIGURE = "figure.png"
_SETTINGS = "settings.json"
_CONTENTS = "contents"  # digest of the data; only settings files of this command have it

Settings = Mapping[str, Any]


def store_of(folder: Path, name: str) -> Path:
    """The store of a run."""
    return folder / f"{name.replace(' ', '_')}.zarr"


def checkpoint_of(folder: Path, name: str) -> Path:
    """The checkpoint of a run that is not finished."""
    return store_of(folder, name).with_suffix(".checkpoint")


def claim(
    folder: Path, settings: Mapping[str, Settings], *, wanted: tuple[str, ...], accept: tuple[str, ...], overwrite: bool
) -> None:
    """Prepare the folder for these runs, or refuse it.

    **Arguments:** `settings`: name of a run → the settings on which it depends, for all runs of this command; `wanted`:
    names of the runs to make now; `accept`: names of settings that may differ from those of the stored runs;
    `overwrite`: whether to remove runs with other settings.
    **Raises:** ValueError if the folder contains runs with other settings, or other files with the names that this
    command uses.
    """
    if folder.exists() and not folder.is_dir():
        raise wrong("out", "a folder", f"{folder}, which is a file")
    require_parents("out", folder)
    stored = _read(folder, tuple(settings))
    present = [name for name in settings if _is_there(folder, name)]
    unknown = [store_of(folder, name).name for name in present if name not in stored]
    if unknown:
        raise ValueError(f"{folder} holds runs with unknown settings ({', '.join(unknown)}). Choose another --out.")
    if not stored and (folder / FIGURE).exists():
        raise ValueError(f"{folder} holds a {FIGURE} that this command did not write. Choose another --out.")
    changed = {name: _differences(stored[name], settings[name], accept) for name in present}
    changed = {name: each for name, each in changed.items() if each}
    if changed and not overwrite:
        differences = {name: text for each in changed.values() for name, text in each.items()}
        raise ValueError(
            f"{folder} holds runs with other settings ({', '.join(differences.values())}). "
            f"Choose another --out, pass --overwrite to replace them ({', '.join(changed)}), "
            f"or accept the differences: --accept {' '.join(differences)}."
        )
    for name in changed:
        _remove(folder, name)
    kept = {name: dict(stored[name]) for name in present if name not in changed}
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({name: dict(settings[name]) for name in wanted} | kept, indent=1)
    write_file(folder / _SETTINGS, lambda file: file.write_text(content, encoding="utf-8"))


def _is_there(folder: Path, name: str) -> bool:
    return standing(store_of(folder, name)) is not None or checkpoint_of(folder, name).exists()


def _remove(folder: Path, name: str) -> None:
    from ..run.drive import discard
    from ..run.storage import remove

    discard(checkpoint_of(folder, name))
    remove(store_of(folder, name))


def _read(folder: Path, names: tuple[str, ...]) -> Mapping[str, Settings]:
    """Name of a run → its settings."""
    file = folder / _SETTINGS
    if not file.exists():
        return {}
    try:
        stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if _CONTENTS in stored:  # of an earlier version: the same for all runs
            return dict.fromkeys(names, stored)
        if all(_CONTENTS in each for each in stored.values()):
            return stored
    except (ValueError, AttributeError, TypeError):
        pass
    raise ValueError(f"{folder} holds a {_SETTINGS} that this command did not write. Choose another --out.")


def _differences(theirs: Settings, ours: Settings, accept: tuple[str, ...]) -> dict[str, str]:
    """Name of a setting → how it differs."""
    ours = json.loads(json.dumps(ours))
    names = [name for name, value in ours.items() if theirs.get(name) != value and name not in accept]
    return {name: f"{name} {theirs.get(name, 'unknown')} → {ours[name]}" for name in names}
