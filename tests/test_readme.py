"""What the README shows runs as it stands."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def code_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in code_blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    output = capsys.readouterr().out
    assert "The run completed at t = 30" in output and "untrained networks score" in output
    assert float(names["score"]) > names["null"].mean + names["null"].spread > 0
    assert names["flow"].observed["error"].max() < 1e-8 < 1e-2 < names["adam"].observed["error"][-1]
    in_steps, in_time = (names[name].observed["error"] for name in ("in_steps", "in_time"))
    assert abs(in_time[-1] / in_steps[-1] - 1) < 0.005 and in_steps[-1] > 0.1 > 1e-8 > in_steps[0]
    assert abs(names["together"].observed["loss"] - names["alone"].observed["loss"]).max() < 1e-12
    assert [round(float(names["history"][k]), 2) for k in (0, -1)] == [1.50, 0.35]
    names["figure"].savefig(tmp_path / "figure.png")


def test_the_readme_names_the_two_commands():
    assert code_blocks("bash") == [
        "python -m pip install . && nfa-flow flow\n",
        "python -m pip install '.[test]' && pytest\n",
    ]


def test_links_of_the_readme_lead_to_files():
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    local = [link for link in links if not link.startswith("http")]
    assert local and all((ROOT / link).exists() for link in local)
