"""The command line: what it writes and says, with which exit code, and what it refuses."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray
from cli.calls import fails, said

import nfa_flow as nf
from nfa_flow.cli import main
from nfa_flow.cli.common import data_or_teacher
from nfa_flow.cli.flow import Flow
from nfa_flow.run import drive
from nfa_flow.training import methods

SMALL = "--samples 20 --inputs 3 --depth 2 --width 4 --t1 2 --steps 200 --batch-size 7 --no-progress".split()
TEACHER = ["flow", "--data", "linear_teacher", *SMALL]
STORES = {"exact flow": "exact_flow.zarr"} | {name: f"{name}.zarr" for name in ("gd", "momentum", "adam", "adamw")}
LABELS = ["exact flow", "GD", "SGD momentum", "Adam", "AdamW"]


@pytest.fixture(scope="module")
def npz(two_outputs):
    """The call that trains on two outputs."""
    return ["flow", "--data", two_outputs, *SMALL]


@pytest.fixture(scope="module")
def said_and_finished(npz, tmp_path_factory):
    """What the call printed, and the folder that it filled. Tests that change the folder take a copy."""
    folder = tmp_path_factory.mktemp("finished") / "runs"
    return said([*npz, "--out", str(folder)]), folder


def table(output):
    """The numbers of the final table: run → cells."""
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("run "))
    rows = [re.split(r"  +", line.strip()) for line in lines[start + 1 :]]
    return {row[0]: row[1:] for row in rows if len(row) == 7}


def other_store(folder):
    """A Zarr store that is no trajectory."""
    xarray.Dataset({"a": 1.0}, attrs={"settings": "", "about": ""}).to_zarr(folder / "sweep.zarr", consolidated=False)
    return folder / "sweep.zarr"


def contents(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_call_trains_every_optimizer_and_says_where_everything_is(said_and_finished):
    out, folder = said_and_finished
    assert {path.name for path in folder.iterdir()} == {*STORES.values(), "settings.json", "figure.png"}
    lines = out.splitlines()
    assert lines[0] == "Dataset(20 samples, 3 inputs -> 2 outputs, float64)"
    assert lines[1] == "MLP(3-4-2, identity, float64)"
    assert lines[2] == f"to t = 2, NFM against AGOP to the power 0.5, in {folder}"
    for line, name in zip(lines[3:8], STORES, strict=True):
        assert re.fullmatch(rf"{name}: The run completed at t = [\d.]+\. [\d.]+ s", line)
    paths = ", ".join(str(folder / store) for store in STORES.values())
    assert lines[-1] == f"Wrote {paths} and {folder / 'figure.png'}."
    assert plt.imread(folder / "figure.png").std() > 0


def test_the_table_holds_the_last_observations_of_the_stores(said_and_finished):
    out, folder = said_and_finished
    assert list(table(out)) == LABELS
    for path, cells in zip(STORES.values(), table(out).values(), strict=True):
        store = xarray.open_zarr(folder / path, consolidated=False)
        last = store.isel(time=-1)
        shown = [last["loss"], last["cosine"], last["relative_error"], last["exponent.exponent"]]
        np.testing.assert_allclose([float(cell) for cell in cells[:4]], shown, rtol=5e-3)  # two decimals at least
        work = [
            store.attrs[name] for name in ("gradient_evaluations", "hessian_vector_products") if name in store.attrs
        ]
        assert cells[4] == " + ".join(str(count) for count in work)
    assert f"cosine is {float(store['cosine'][0]):.6f}" in out


def test_a_second_call_finds_everything_done_and_shows_the_same_table(npz, said_and_finished, capsys):
    before, folder = said_and_finished
    files = contents(folder)
    main([*npz, "--out", str(folder)])
    after = capsys.readouterr().out
    assert after.splitlines()[3:8] == [f"{name}: already in {folder / store}" for name, store in STORES.items()]
    assert table(after) == table(before)
    changed = {name for name, time in contents(folder).items() if time != files[name]}
    assert changed <= {"settings.json", "figure.png"}


def test_the_runs_of_the_command_line_are_those_of_the_library(npz, finished):
    settings = json.loads((finished / "settings.json").read_text())
    assert all(each["data"] == npz[2] and len(each["contents"]) == 12 for each in settings.values())
    assert settings["gd"].items() >= {"steps": 200, "gd_rate": 0.05}.items() and "steps" not in settings["exact flow"]
    run = nf.Trajectory.load(finished / "exact_flow.zarr")
    again = nf.gradient_flow(
        nf.nets.MLP([3, 4, 2], key=jax.random.split(jax.random.key(0), 3)[1], init=nf.nets.Balanced(0.3)),
        nf.data.load_npz(npz[2]),
        2.0,
        progress=False,
    )
    np.testing.assert_array_equal(run.times, again.times)
    np.testing.assert_allclose(run.observed["loss"], again.observed["loss"], rtol=1e-12)
    ends = {name: float(nf.Trajectory.load(finished / store).end_time) for name, store in STORES.items()}
    # Momentum .9 moves ten times as far in a step.
    assert ends == pytest.approx({"exact flow": 2.0, "gd": 10.0, "momentum": 10.0, "adam": 0.2, "adamw": 0.2})


def test_class_labels_of_a_file_are_fitted_as_one_hot_targets(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "labels.npz", x=rng.normal(size=(12, 3)), y=rng.integers(0, 3, 12))
    main(["flow", "--data", str(tmp_path / "labels.npz"), *SMALL, "--out", str(tmp_path / "out")])
    assert "Dataset(12 samples, 3 inputs -> 3 outputs, float64)" in capsys.readouterr().out


def test_other_contents_of_the_same_data_file_are_refused(npz, copy, tmp_path, capsys):
    file = tmp_path / "data.npz"
    shutil.copy(npz[2], file)
    settings = json.loads((copy / "settings.json").read_text())
    renamed = {name: each | {"data": str(file)} for name, each in settings.items()}
    (copy / "settings.json").write_text(json.dumps(renamed))
    main(["flow", "--data", str(file), *SMALL, "--out", str(copy)])  # the same contents under another name
    rng = np.random.default_rng(1)
    np.savez(file, x=rng.normal(size=(20, 3)), y=rng.normal(size=(20, 2)))
    assert "contents" in fails(capsys, ["flow", "--data", str(file), *SMALL, "--out", str(copy)])


def test_other_settings_are_refused_with_the_difference(npz, copy, capsys):
    before = contents(copy)
    err = fails(capsys, [*npz, "--width", "5", "--seed", "3", "--out", str(copy)])
    assert f"{copy} holds runs with other settings (width 4 → 5, seed 0 → 3)." in err
    assert f"pass --overwrite to replace them ({', '.join(STORES)})" in err and err.endswith("--accept width seed.\n")
    assert err.count("\n") == 1
    assert contents(copy) == before


def test_runs_of_another_version_are_refused_or_accepted_knowingly(npz, copy, capsys):
    settings = json.loads((copy / "settings.json").read_text())
    assert {"nfa_flow", "versions", "random_numbers"} <= settings["gd"].keys()
    (copy / "settings.json").write_text(
        json.dumps({name: each | {"nfa_flow": "old"} for name, each in settings.items()})
    )
    assert "(nfa_flow old → " in fails(capsys, [*npz, "--out", str(copy)])
    main([*npz, "--out", str(copy), "--accept", "nfa_flow"])
    assert capsys.readouterr().out.count("already in") == 5
    assert json.loads((copy / "settings.json").read_text())["gd"]["nfa_flow"] == "old"


def test_runs_of_before_settings_of_each_run_are_refused_by_name(npz, copy, capsys):
    settings = json.loads((copy / "settings.json").read_text())
    of_all = {name: value for each in settings.values() for name, value in each.items() if name != "nfa_flow"}
    (copy / "settings.json").write_text(json.dumps(of_all))
    assert "(nfa_flow unknown → " in fails(capsys, [*npz, "--out", str(copy)])


def test_overwrite_replaces_the_runs_of_other_settings_only(npz, copy, capsys):
    ours = ["my.zarr", "adam.txt", "gd.checkpoint.txt"]
    for name in ours:
        (copy / name).write_text("mine")
    before = contents(copy)
    call = [*npz, "--steps", "20", "--optimizers", "gd", "--out", str(copy)]
    assert "(steps 200 → 20)" in fails(capsys, call) and contents(copy) == before
    main([*call, "--overwrite"])
    out = capsys.readouterr().out
    assert "exact flow: already in" in out and "gd: The run completed at t = 1." in out
    assert set(contents(copy)) == {*ours, "settings.json", "exact_flow.zarr", "gd.zarr", "figure.png"}
    assert contents(copy)["exact_flow.zarr"] == before["exact_flow.zarr"]
    main(call)
    assert "gd: already in" in capsys.readouterr().out
    assert all((copy / name).read_text() == "mine" for name in ours)


def test_flows_of_optimizers_run_beside_them_and_are_kept(npz, copy, capsys):
    call = [*npz, "--optimizers", "gd", "--flows", "--out", str(copy)]
    main(call)
    out = capsys.readouterr().out
    assert "gd: already in" in out and "flow of GD" in out
    main(call)
    assert "flow of gd: already in" in capsys.readouterr().out


def test_another_rate_of_one_optimizer_trains_that_one_again(npz, copy, capsys):
    before = contents(copy)
    main([*npz, "--gd-rate", "0.1", "--out", str(copy), "--overwrite"])
    stores = {name for name in contents(copy) if name.endswith(".zarr") and contents(copy)[name] != before[name]}
    assert stores == {"gd.zarr"}


def test_files_that_only_have_our_names_are_never_touched(npz, copy, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    for name, content in {
        "settings.json": '{"my": "editor"}',
        "figure.png": "my figure",
        "gd.zarr": "my notes",
    }.items():
        (tmp_path / "mine" / name).write_text(content)
        assert "Choose another --out" in fails(capsys, [*npz, "--out", str(tmp_path / "mine"), "--overwrite"])
        assert (tmp_path / "mine" / name).read_text() == content
        (tmp_path / "mine" / name).unlink()
    shutil.rmtree(copy / "gd.zarr")
    shutil.copytree(other_store(tmp_path), copy / "gd.zarr")
    before = contents(copy / "gd.zarr")
    err = fails(capsys, [*npz, "--gd-rate", "0.1", "--out", str(copy), "--overwrite"])
    assert "gd.zarr, which holds something else" in err and contents(copy / "gd.zarr") == before


def test_an_interrupted_call_exits_with_130_and_the_same_call_goes_on(npz, finished, tmp_path, capsys, monkeypatch):
    @contextlib.contextmanager
    def interrupting(label, progress):
        def show(fraction):
            if "optimizer" in label:
                raise KeyboardInterrupt

        yield show

    call = [*npz, "--optimizers", "gd", "--out", str(tmp_path), "--overwrite"]
    monkeypatch.setattr(drive, "_progress_bar", interrupting)
    assert fails(capsys, call, code=130) == "Interrupted. The same command goes on from here.\n"
    assert {path.name for path in tmp_path.iterdir()} == {"settings.json", "exact_flow.zarr", "gd.checkpoint"}
    monkeypatch.undo()
    main(call)
    out = capsys.readouterr().out
    assert "exact flow: already in" in out and "gd: The run completed" in out
    assert not list(tmp_path.glob("*.checkpoint"))
    for store in ("exact_flow.zarr", "gd.zarr"):
        runs = [xarray.load_dataset(f / store, engine="zarr", consolidated=False) for f in (tmp_path, finished)]
        for run in runs:
            run.attrs.pop("seconds")
        xarray.testing.assert_identical(*runs)


BAD = [
    (["--data", "imagenet"], "`data` must be digits, diabetes, linear_teacher, .* but was 'imagenet'"),
    (["--data", "diabetes:foo"], "`data` must be .* but was 'diabetes:foo'"),
    (["--data", "openml:"], "`data` must be .* but was 'openml:'"),
    (["--data", "missing.npz"], "missing.npz"),
    (["--depth", "0"], "`depth` must be a whole number of at least 1, but was 0"),
    (["--width", "0"], "`width` must be a whole number of at least 1, but was 0"),
    (["--samples", "0"], "`samples` must be"),
    (["--inputs", "-1"], "`inputs` must be"),
    (["--noise", "-1"], "`noise` must be a non-negative number, but was -1"),
    (["--seed", "-1"], "`seed` must be a whole number of at least 0"),
    (["--activation", "swish"], "`activation` must be one of"),
    (["--scale", "-1"], "`scale` must be a positive number, but was -1"),
    (["--init", "lambda_balanced", "--b", "0"], "`b` must be non-zero"),
    (["--init", "lambda_balanced", "--b", "nan"], "`b` must be a finite number"),
    (["--loss", "cross_entropy"], "`data` must be of one-hot or probability targets"),
    (["--power", "0"], "`power` must be a positive number, but was 0"),
    (["--t1", "0"], "`t1` must be a positive number, but was 0"),
    (["--rtol", "0"], "`rtol` must be a positive number, but was 0"),
    (["--weight-decay", "-1"], "`weight_decay` must be a non-negative number, but was -1"),
    (["--memory", "0"], "`memory` must be a positive number, but was 0"),
    (["--memory", "1e-8"], "`memory` must be at least 128 bytes, which one sample takes, but was 10"),
    (["--steps", "0"], "`steps` must be a whole number of at least 1, but was 0"),
    (["--batch-size", "0"], "`batch_size` must be a whole number of at least 1, but was 0"),
    (["--gd-rate", "inf"], "`gd_rate` must be a positive number, but was inf"),
    (["--momentum-rate", "0"], "`momentum_rate` must be a positive number"),
    (["--adam-rate", "-1"], "`adam_rate` must be a positive number"),
    (["--adamw-decay", "-1"], "`adamw_decay` must be a non-negative number"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=lambda value: " ".join(value) if type(value) is list else "")
def test_bad_input_is_one_red_line_before_anything_is_written(change, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    err = fails(capsys, [*TEACHER, *change, "--out", str(tmp_path / "runs")])
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert err.startswith("\x1b[31m") and err.rstrip("\n").endswith("\x1b[0m") and err.count("\n") == 1
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_memory_is_in_gib_and_does_not_tell_finished_runs_apart(npz, copy, monkeypatch, capsys):
    main([*npz, "--memory", "2", "--out", str(copy)])
    assert capsys.readouterr().out.count("already in") == len(STORES)
    given = []

    def run(*_, memory, **__):
        given.append(memory)
        raise ValueError("not run")

    monkeypatch.setattr(methods, "gradient_flow", run)
    fails(capsys, [*npz, "--memory", "0.5", "--rtol", "1e-3", "--overwrite", "--out", str(copy)])
    assert given == [2**29]


def test_images_and_their_labels_become_vectors_and_one_hot_targets(tmp_path):
    for name, shape in (("train-images", (3, 28, 28)), ("train-labels", (3,))):
        header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
        numbers = np.arange(np.prod(shape)) % 3
        (tmp_path / f"{name}-idx{len(shape)}-ubyte").write_bytes(header + numbers.astype(np.uint8).tobytes())
    data = data_or_teacher(Flow(data=f"mnist:{tmp_path}"))
    assert str(data) == "Dataset(3 samples, 784 inputs -> 3 outputs, float64)"


def test_a_corrected_call_goes_on(npz, copy, capsys):
    """After a bad argument, and with a good one: what is finished stays."""
    before = contents(copy)
    fails(capsys, [*npz, "--steps", "0", "--out", str(copy), "--overwrite"])
    assert contents(copy) == before
    main([*npz, "--out", str(copy)])
    assert capsys.readouterr().out.count("already in") == 5


def test_out_must_be_a_folder(npz, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    for out in (tmp_path / "taken", tmp_path / "taken" / "below"):
        err = fails(capsys, [*npz, "--out", str(out)])
        assert "`out` must be a" in err and err.count("\n") == 1
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("name", ["figure", "figure.docx", "."])
def test_a_figure_must_be_a_file_of_a_known_kind(name, finished, tmp_path, capsys):
    assert "`out` must be a file that ends in" in fails(capsys, ["plot", str(finished), "--out", str(tmp_path / name)])


def test_an_unknown_experiment_is_named_by_its_flag(tmp_path, capsys):
    err = fails(capsys, ["study", "nfa", "--quick", "--figure", "bogus", "--out", str(tmp_path)])
    assert '`figure` must be one of "depth"' in err and not list(tmp_path.iterdir())


def test_the_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"nfa_flow {nf.__version__}\n"


def test_without_color_errors_are_plain(capsys, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in fails(capsys, [*TEACHER, "--steps", "0"])


@pytest.mark.parametrize("arguments", [[], ["train"], ["flow", "--steps", "many"], ["flow", "--optimizers", "lion"]])
def test_what_cannot_be_parsed_exits_with_2(arguments, capsys):
    assert fails(capsys, arguments)


def test_debug_shows_where_an_error_comes_from(tmp_path):
    with pytest.raises(ValueError, match="`data` must be"):
        main(["flow", "--data", "imagenet", "--debug", "--out", str(tmp_path)])
    with pytest.raises(FileNotFoundError):
        main(["plot", str(tmp_path), "--debug"])


def test_plot_draws_stored_runs_again(finished, tmp_path, capsys):
    figure = tmp_path / "new" / "figure.png"
    main(["plot", str(finished), "--observables", "loss", "exponent.residual", "--out", str(figure)])
    assert capsys.readouterr().out == f"Wrote {figure}.\n"
    assert plt.imread(figure).std() > 0


def test_plot_draws_into_the_folder_and_begins_with_the_flow(copy, capsys):
    (copy / "figure.png").unlink()
    main(["plot", str(copy)])
    assert capsys.readouterr().out == f"Wrote {copy / 'figure.png'}.\n"
    labels = [text.get_text() for text in plt.gcf().legends[0].get_texts()]
    assert labels[0] == "exact flow" and set(labels) == {*LABELS, "at $t=0$"}


def test_plot_says_what_is_missing(finished, tmp_path, capsys):
    assert "There are no runs (*.zarr) in" in fails(capsys, ["plot", str(tmp_path)])
    err = fails(capsys, ["plot", str(finished), "--observables", "margin", "--out", str(tmp_path / "figure.png")])
    assert "`name` must be a scalar observable of these runs" in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_one_output_in_single_precision(tmp_path, capsys):
    main([*TEACHER, "--optimizers", "gd", "--dtype", "float32", "--rtol", "1e-5", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "Dataset(20 samples, 3 inputs -> 1 output, float32)" in out
    # AGOP has rank one, and no exponent can be fitted.
    assert [cells[3] for cells in table(out).values()] == ["undefined"] * 2
    with xarray.open_zarr(tmp_path / "exact_flow.zarr", consolidated=False) as store:
        assert store["loss"].dtype == store["time"].dtype == np.float32


def test_the_command_is_installed():
    command = os.path.join(os.path.dirname(sys.executable), "nfa-flow")
    done = subprocess.run([command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "{flow,sweep,study,plot}" in done.stdout
