"""Compiled programs that the command line keeps from one call to the next."""

import os
import time
import warnings
from pathlib import Path

import jax
import pytest

from nfa_flow.cli import cache, main
from nfa_flow.cli.common import start_jax


def compile_one(number=17.0):
    """Compile a program, the same one for the same number."""
    assert float(jax.jit(lambda x: x + number)(1.0)) == 1 + number


@pytest.fixture
def found():
    """Compilations that were saved."""
    events = []
    listener = lambda event, **_: events.append(event) if event.endswith("cache_hits") else None
    jax.monitoring.register_event_listener(listener)
    yield events
    jax.monitoring.unregister_event_listener(listener)


@pytest.mark.parametrize(
    ("platform", "variables", "place"),
    [
        ("linux", {}, "~/.cache/nfa-flow"),
        ("linux", {"XDG_CACHE_HOME": "/scratch/caches"}, "/scratch/caches/nfa-flow"),
        ("darwin", {"XDG_CACHE_HOME": "/scratch/caches"}, "~/Library/Caches/nfa-flow"),
        ("win32", {"LOCALAPPDATA": "/Users/me/AppData/Local"}, "/Users/me/AppData/Local/nfa-flow"),
        ("win32", {}, "~/AppData/Local/nfa-flow"),
    ],
)
def test_programs_are_kept_where_the_platform_has_its_caches(platform, variables, place, monkeypatch):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert cache.folder() == Path(place).expanduser()


def test_help_says_where(capsys):
    with pytest.raises(SystemExit):
        main(["flow", "--help"])
    said = "".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--no-cache" in said and str(cache.folder()) in said


def test_a_program_is_compiled_once_and_found_later(kept, found):
    start_jax("float64", cache=True)
    compile_one()
    assert not found and kept.stat().st_mode & 0o777 == 0o700
    written = list(kept.glob("*-cache"))
    assert len(written) == 1
    compile_one()
    assert len(found) == 1 and list(kept.glob("*-cache")) == written


def test_nothing_is_read_or_written_without_it(kept, found):
    start_jax("float64", cache=False)
    compile_one()
    compile_one()
    assert not found and not kept.exists()


def test_the_folder_that_the_user_has_chosen_for_jax_stays(kept, tmp_path, monkeypatch):
    theirs = str(tmp_path / "theirs")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", theirs)
    jax.config.update("jax_compilation_cache_dir", theirs)  # JAX does so itself when it is imported
    start_jax("float64", cache=True)
    assert jax.config.jax_compilation_cache_dir == theirs and not kept.exists()


def test_a_folder_that_cannot_be_written_is_done_without(kept):
    kept.parent.write_text("a file where the caches would be")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start_jax("float64", cache=True)
        compile_one()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_file_that_a_kill_has_left_half_written_is_no_hindrance(kept, found):
    start_jax("float64", cache=True)
    compile_one()
    (program,) = kept.glob("*-cache")
    program.write_bytes(program.read_bytes()[:100])
    with warnings.catch_warnings(record=True) as said:
        start_jax("float64", cache=True)
        compile_one()
    assert not found and not said


def test_programs_of_last_month_are_removed(kept):
    start_jax("float64", cache=True)
    compile_one()
    compile_one(18.0)
    old, new = kept.glob("*-cache")
    os.utime(old, (0, time.time() - 31 * 24 * 3600))
    start_jax("float64", cache=True)
    assert list(kept.iterdir()) == [new]
