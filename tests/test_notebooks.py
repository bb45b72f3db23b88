"""The notebooks run as they stand, and print again what they keep."""

import html
import math
import re
import sys
from collections import namedtuple
from decimal import Decimal
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

STUDIES = {  # notebook → the study that it shows
    "neural_feature_ansatz": "nfa",
    "rich_features": "rich-features",
    "spectral_condition": "spectral",
    "one_gradient_step": "spikes",
}
NOTEBOOKS = [
    pytest.param(path, id=path.name, marks=[pytest.mark.quick] if path.stem in STUDIES else [])
    for path in sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
]

Claim = namedtuple("Claim", "experiment statement expected measured verdict")


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_notebooks_run_and_print_what_they_keep(path, studies_folder, request):
    if path.stem in STUDIES:
        request.getfixturevalue("quick_study")(STUDIES[path.stem])
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any(output.get("data", {}).get("image/png") for cell in cells for output in cell.outputs)
    kept = [(printed(cell), claims(cell)) for cell in cells]
    assert any(claims for _, claims in kept) == (path.stem in STUDIES)
    place = {"metadata": {"path": str(studies_folder)}}
    kernel = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place)
    # The tests' own interpreter, whatever kernel of that name is registered elsewhere on the machine.
    kernel.create_kernel_manager().kernel_spec.argv[0] = sys.executable
    kernel.execute()
    for cell, (text, table) in zip(cells, kept, strict=True):
        assert_alike(printed(cell), text, close_as_printed)
        assert_same_claims(claims(cell), table)


def claims(cell):
    """The rows of a table of claims."""
    if "claim.statement" not in cell.source:
        return []
    page = "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in page.split("<tr")]
    return [Claim(*map(html.unescape, row)) for row in rows if row]


def printed(cell):
    """What a cell prints, without tables of claims, and without the seconds that it took."""
    if claims(cell):
        return ""
    text = "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)
    return re.sub(r"seconds: \S+", "", text)


def assert_same_claims(new, kept):
    """The same claims in the same order with the same verdicts, in the same words, and with numbers that are close."""
    exactly = lambda table: [(claim.experiment, claim.statement, claim.verdict) for claim in table]
    assert exactly(new) == exactly(kept)
    for claim, before in zip(new, kept, strict=True):
        assert_alike(claim.expected, before.expected, close_as_measured)
        # Rounding decides on which side of a kink a random ReLU network goes on, so single runs end elsewhere.
        close = close_as_measured if claim.experiment != "random-relu" else lambda *_: True
        assert_alike(claim.measured, before.measured, close)


def assert_alike(new, kept, are_close):
    """The same words around numbers that are close."""
    (words, numbers), (words_kept, numbers_kept) = words_and_numbers(new), words_and_numbers(kept)
    assert words == words_kept
    assert all(map(are_close, numbers, numbers_kept)), (new, kept)


def words_and_numbers(text):
    """The words of a text without spaces, with # in the place of numbers; and these, with the digits that they show."""
    parts = re.split(r"([-+]?\d*\.?\d+(?:e[-+]?\d+)?)", text.replace("\N{MINUS SIGN}", "-"))
    return "#".join("".join(words.split()) for words in parts[::2]), [Decimal(number) for number in parts[1::2]]


def close_as_printed(new, kept):
    # Six digits are printed. Other compiler flags round otherwise, which shows by some thousand times 2⁻⁵² in the
    # errors of the flow: they are differences of nearly equal numbers.
    return math.isclose(new, kept, rel_tol=1e-6, abs_tol=1e-12)


def close_as_measured(new, kept):
    # Other rounding may change the last digit of a median or a quantile, but no count: whole numbers are equal.
    # Where a law is exact, the error is rounding and the flow's tolerance, and may differ by any factor; the claims
    # limit it to 1e-7, in percent 1e-5. A loss beyond 2⁵² of the first one diverges: its digits come from rounding.
    places = [number.as_tuple().exponent for number in (new, kept)]
    digit = max(Decimal(10) ** place if place else Decimal(0) for place in places)
    return abs(new - kept) <= max(digit, Decimal("1e-5")) or min(new, kept) > 2**52
