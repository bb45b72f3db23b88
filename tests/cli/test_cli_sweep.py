"""`nfa-flow sweep`, and `nfa-flow plot` of its store: what they write and say, and what they refuse."""

import re

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray
from cli.calls import fails, said

import nfa_flow as nf
from nfa_flow.cli import main
from nfa_flow.sweep.workers import local

NUMBER = r"(\d\.\d+(?:e[-+]\d+)?)"


@pytest.fixture(scope="module")
def call(two_outputs):
    """A sweep on two outputs."""
    small = "--depth 2 --width 4 --t1 1 --rtol 1e-5 --weight-decay 0 0.1 --seeds 2 --no-progress"
    return ["sweep", "--data", two_outputs, *small.split()]


@pytest.fixture(scope="module")
def said_and_finished(call, tmp_path_factory):
    """What the call printed, and its store. Tests that change the store take a copy."""
    store = tmp_path_factory.mktemp("finished") / "small.zarr"
    return said([*call, "--out", str(store)]), store


def interrupted(self, keep):
    """In the place of a method that runs lanes, Ctrl-C before the first result."""
    raise KeyboardInterrupt


def table(output):
    """The final table: its header, and the cells of each row."""
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if "final loss" in line)
    header, *rows = (re.split(r"  +", line.strip()) for line in lines[start:-1])
    return header, [row for row in rows if len(row) == len(header)]


def legend():
    return [text.get_text() for text in plt.gcf().legends[0].get_texts()]


def test_a_call_says_what_it_does_and_where_everything_is(said_and_finished):
    out, store = said_and_finished
    lines = out.splitlines()
    assert lines[0] == "Dataset(20 samples, 3 inputs -> 2 outputs, float64)"
    fixed = "depth 2, width 4, activation identity, init balanced, scale 0.3"
    assert lines[1] == f"weight_decay 0, 0.1 × 2 seeds; {fixed}"
    assert lines[2] == f"exact flow to t = 1 for each of 4 runs, NFM against AGOP to the power 1/depth, in {store}"
    csv, figure = store.with_name("small.csv"), store.with_name("small.png")
    assert re.fullmatch(rf"Wrote {store}, {csv} and {figure} in [\d.]+ s\.", lines[-1])
    assert len(csv.read_text().splitlines()) == 1 + 4
    assert plt.imread(figure).std() > 0


def test_the_table_holds_medians_and_quantiles_over_the_seeds(said_and_finished):
    out, store = said_and_finished
    header, rows = table(out)
    assert header == ["weight_decay", "runs", "final loss", "cosine", "relative error", "exponent"]
    assert [row[:2] for row in rows] == [["0", "2"], ["0.1", "2"]]
    dataset = nf.load_sweep(store).squeeze()
    for i, row in enumerate(rows):
        for name, cell in zip(("loss", "cosine", "relative_error", "exponent.exponent"), row[2:], strict=True):
            median, low, high = map(float, re.fullmatch(rf"{NUMBER} \({NUMBER}–{NUMBER}\)", cell).groups())
            expected = np.quantile(dataset[f"{name}_at_end"][i], [0.1, 0.5, 0.9])
            np.testing.assert_allclose([low, median, high], expected, rtol=5e-3)  # two decimals at least


def test_the_runs_are_those_of_the_flow_command(call, finished):
    run = nf.load_sweep(finished).sel(weight_decay=0.1, seed=1).squeeze()
    data = nf.data.load_npz(call[2])
    net = nf.nets.MLP([3, 4, 2], key=jax.random.split(jax.random.key(1), 3)[1], init=nf.nets.Balanced(0.3))
    alone = nf.gradient_flow(net, data, 1.0, weight_decay=0.1, rtol=1e-5, progress=False)
    np.testing.assert_array_equal(run["time"], alone.times)
    np.testing.assert_allclose(run["loss"], alone.observed["loss"], rtol=1e-5)
    assert run["power"] == 0.5


def test_a_second_call_finds_everything_done(call, said_and_finished, copy, capsys, monkeypatch):
    monkeypatch.setattr(local.LocalWorkers, "run", interrupted)
    main([*call, "--out", str(copy)])
    assert table(capsys.readouterr().out) == table(said_and_finished[0])


def test_a_call_with_more_seeds_goes_on_and_when_interrupted_tells_what_is_kept(call, copy, capsys, monkeypatch):
    monkeypatch.setattr(local.LocalWorkers, "run", interrupted)
    with pytest.raises(SystemExit) as raised:
        main([*call, "--out", str(copy), "--seeds", "3"])
    assert raised.value.code == 130
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == f"4 of 6 runs are finished and kept in {copy}."
    assert said.err == "Interrupted. The same command goes on from here.\n"


def test_other_settings_are_refused_with_the_difference(call, copy, capsys):
    err = fails(capsys, [*call, "--out", str(copy), "--t1", "2"])
    assert f"{copy}, whose settings differ" in err and "method.t1: 1.0 → 2.0" in err
    assert "--accept one_run.arguments.method.t1" in err and "Traceback" not in err


@pytest.mark.timeout(300)
def test_a_process_of_its_own_finds_the_same_to_the_bit_and_keeps_its_programs(call, finished, tmp_path, kept):
    main([*call, "--out", str(tmp_path / "small.zarr"), "--workers", "1"])
    assert any(program.name.startswith("jit_advance") for program in kept.iterdir())
    ours, theirs = nf.load_sweep(finished), nf.load_sweep(tmp_path / "small.zarr")
    for name in ("loss", "cosine", "relative_error"):
        xarray.testing.assert_equal(ours[name], theirs[name])


def test_failed_runs_are_counted_and_told(call, finished, tmp_path, capsys, monkeypatch):
    dataset = nf.load_sweep(finished)
    failed = (dataset["seed"] == 1) & (dataset["weight_decay"] == 0.1)
    dataset["status"] = dataset["status"].where(~failed, "not_finite")
    dataset["reason"] = dataset["reason"].where(~failed, "It exploded.")
    monkeypatch.setattr(nf, "sweep", lambda *arguments, **options: dataset)
    main([*call, "--out", str(tmp_path / "small.zarr")])
    out = capsys.readouterr().out
    _, rows = table(out)
    assert [row[:2] for row in rows] == [["0", "2"], ["0.1", "1 of 2"]]
    only = float(dataset["loss_at_end"].sel(weight_decay=0.1, seed=0).item())
    assert rows[1][2] == f"{only:.3e} ({only:.3e}–{only:.3e})"
    assert "\n1 failed: It exploded.\n" in out


def test_an_optimizer_on_data_drawn_for_each_seed_in_single_precision(tmp_path, capsys):
    store, descent = tmp_path / "drawn.zarr", "--method gd --gd-rate 0.1 --steps 20 --dtype float32 --depth 2 --width 4"
    teacher = "--data linear_teacher --samples 40 --inputs 3 --noise 0 0.5 --weight-decay 0 --seeds 2 --no-progress"
    main(["sweep", *teacher.split(), *descent.split(), "--out", str(store)])
    out = capsys.readouterr().out
    assert out.startswith("linear_teacher, 3 inputs, drawn for each seed\nnoise 0, 0.5 × 2 seeds; depth 2, ")
    assert f"GD, 20 steps of 0.1 for each of 4 runs, NFM against AGOP to the power 1/depth, in {store}" in out
    header, rows = table(out)
    assert header[0] == "noise"
    assert [row[-1] for row in rows] == ["undefined"] * 2  # AGOP has rank one, and no exponent can be fitted
    loss = nf.load_sweep(store)["loss"].squeeze()
    assert loss.dtype == np.float32
    assert loss["time"][-1] == pytest.approx(2)
    assert len(np.unique(loss.isel(time=0))) == 4


BAD = [
    (["--depth", "0"], "`depth` must be a whole number of at least 1, but was 0"),
    (["--depth", "2", "2"], "`depth` must be an axis of distinct values, but was 2 more than once"),
    (["--width"], "`width` must be an axis with at least one value, but was empty"),
    (["--width", "1"], "`widths` must be at least 2 in every hidden layer"),
    (["--activation", "swish"], "`activation` must be one of"),
    (["--weight-decay", "0", "-1"], "`weight_decay` must be a non-negative number, but was -1"),
    (["--power", "0"], "`power` must be a positive number, but was 0"),
    (["--t1", "0"], "`t1` must be a positive number, but was 0"),
    (["--method", "gd", "--steps", "0"], "`steps` must be a whole number of at least 1, but was 0"),
    (["--scale", "0.3", "-1"], "`scale` must be a positive number, but was -1"),
    (["--loss", "cross_entropy"], "`data` must be of one-hot or probability targets"),
    (["--width", "4", "2", "--depth", "2", "--init", "lambda_balanced"], "`widths` must be"),
    (["--seeds", "0"], "`seeds` must be a whole number of at least 1, but was 0"),
    (["--workers", "-1"], "`workers` must be a whole number of at least 0, but was -1"),
    (["--noise", "0", "0.1"], "`noise` must be left out where the data are not synthetic, but was 0.0 0.1"),
    (["--data", "imagenet"], "`data` must be digits, diabetes, linear_teacher"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=lambda value: " ".join(value) if type(value) is list else "")
def test_bad_input_is_one_red_line_before_anything_is_written(change, message, call, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    err = fails(capsys, [*call, *change, "--out", str(tmp_path / "bad.zarr")])
    assert not list(tmp_path.iterdir())
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("\x1b[31m") and err.rstrip("\n").endswith("\x1b[0m") and err.count("\n") == 1


def test_a_figure_that_is_not_of_this_sweep_is_not_replaced(call, tmp_path, capsys):
    (tmp_path / "my.png").write_text("mine")
    err = fails(capsys, [*call, "--out", str(tmp_path / "my.zarr")])
    assert "`out` must be a path whose figure replaces no other file" in err
    assert [file.name for file in tmp_path.iterdir()] == ["my.png"]


def test_plot_draws_beside_the_store_what_it_holds(copy, capsys):
    main(["plot", str(copy)])
    assert capsys.readouterr().out == f"Wrote {copy.with_name('small.png')}.\n"
    assert len(plt.gcf().axes) == 4
    assert any("weight_decay = 0.1" in entry for entry in legend())


def test_plot_shows_the_observables_and_values_that_were_chosen(finished, tmp_path, capsys):
    figure = tmp_path / "new" / "figure.png"
    options = "--observables loss exponent.residual --select weight_decay=1e-1 seed=0 --hue depth".split()
    main(["plot", str(finished), *options, "--out", str(figure)])
    assert capsys.readouterr().out == f"Wrote {figure}.\n"
    assert plt.imread(figure).std() > 0
    assert [ax.get_ylabel() for ax in plt.gcf().axes] == ["loss $\\mathcal{L}$", "exponent.residual"]
    assert not any("weight_decay = 0" in entry for entry in legend())
    dataset = nf.load_sweep(finished).sel(weight_decay=0.1, seed=0).squeeze()
    drawn = max((line.get_ydata() for line in plt.gcf().axes[0].lines), key=len)
    np.testing.assert_array_equal(drawn, dataset["loss"][1:])  # the first is at t = 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--observables", "margin"], r"`name` must be a scalar observable .*'loss'.*, but was 'margin'"),
        (["--over", "epoch"], r"`over` must be a dimension of `loss`, .*'seed'.*, but was 'epoch'"),
        (["--hue", "epoch"], r"`hue` must be another dimension of `loss`"),
        (["--select", "rate=1"], r"`select` must be NAME=VALUE of an axis, \['depth', .*\], but was of 'rate'"),
        (["--select", "depth=3"], r"`select` must be one of the values along depth, \[2\], but was '3'"),
    ],
)
def test_plot_says_what_there_is(options, message, finished, tmp_path, capsys):
    err = fails(capsys, ["plot", str(finished), *options, "--out", str(tmp_path / "figure.png")])
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_plot_of_a_folder_of_sweeps_asks_for_one(finished, capsys):
    assert "To plot a sweep, name its own store." in fails(capsys, ["plot", str(finished.parent)])
