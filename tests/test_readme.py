"""What the README and the notebooks show runs as it stands."""

import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
STUDIES = {  # notebook → the study that it looks at
    "neural_feature_ansatz": "nfa",
    "rich_features": "rich-features",
    "spectral_condition": "spectral",
    "one_gradient_step": "spikes",
}
NOTEBOOKS = [
    pytest.param(path, id=path.name, marks=[pytest.mark.quick] if path.stem in STUDIES else [])
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
]


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


def printed(cell):
    """What a cell prints, without the seconds that it took; nothing of studies: their claims have their own tests."""
    if "study" in cell.source or "results" in cell.source:
        return ""
    text = "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)
    return re.sub(r"seconds: \S+", "", text)


def numbers(text):
    return np.array([float(number) for number in re.findall(r"-?\d+\.?\d*(?:e[-+]?\d+)?", text)])


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_notebooks_run_and_print_the_numbers_that_they_keep(path, studies_folder, request):
    if path.stem in STUDIES:
        request.getfixturevalue("quick_study")(STUDIES[path.stem])
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any(output.get("data", {}).get("image/png") for cell in cells for output in cell.outputs)
    kept = [printed(cell) for cell in cells]
    place = {"metadata": {"path": str(studies_folder)}}
    kernel = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place)
    # The tests' own interpreter, whatever kernel of that name is registered elsewhere on the machine.
    kernel.create_kernel_manager().kernel_spec.argv[0] = sys.executable
    kernel.execute()
    for cell, before in zip(cells, kept, strict=True):
        # Six digits are printed. Other compiler flags round otherwise, which shows by some thousand times 2⁻⁵² in the
        # errors of the flow: they are differences of nearly equal numbers.
        np.testing.assert_allclose(numbers(printed(cell)), numbers(before), rtol=1e-6, atol=1e-12, err_msg=cell.source)
