"""The only place that prints, for terminals, files and pipes of any encoding."""

import codecs
import io
import sys
import unicodedata
from typing import Any

_WIDEST = 240
_PLAIN = {
    **{"→": "->", "×": "x", "≤": "<=", "≥": ">=", "±": "+-", "≈": "~", "∝": "~", "√": "sqrt", "‖": "||", "∞": "inf"},
    **{"–": "-", "—": "-", "−": "-", "…": "...", "·": "*", "½": "1/2", "²": "^2", "³": "^3", "∇": "grad ", "∈": "in"},
    **{"─": "-", "━": "-", "│": "|", "┃": "|", "’": "'", "“": '"', "”": '"'},
}


def print_anywhere() -> None:
    """Write characters that are missing in the encoding of stdout or stderr in ASCII, instead of raising an error."""
    codecs.register_error("nfa_flow_plain", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="nfa_flow_plain")


def console() -> Any:
    """The console for output; paths and rows of tables are not wrapped, even in a narrow terminal."""
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False, width=_WIDEST, emoji=False, markup=False)


def complain(message: str) -> None:
    """Print an error, in red on stderr."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, emoji=False).print(message, style="red", markup=False, highlight=False)


def table(columns: tuple[str, ...], *, left: int) -> Any:
    """An empty table; its first columns are aligned left, the others, numbers, right."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < left else "right")
    return table


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    if unicodedata.combining(character):
        return ""
    name = unicodedata.name(character, "")
    if name.startswith("GREEK") and " LETTER " in name:
        letter = name.partition(" LETTER ")[2].partition(" ")[0]
        return letter.title() if "CAPITAL" in name else letter.lower()
    if name.startswith("BOX DRAWINGS"):
        return "+"
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"
