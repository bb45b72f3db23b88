"""Calls of the command line within a test."""

import contextlib
import io

import pytest

from nfa_flow.cli import main


def said(arguments):
    """What a call prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main(arguments)
    return out.getvalue()


def fails(capsys, arguments, code=2):
    """What a call that must fail says on stderr."""
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == code
    return capsys.readouterr().err
