"""The command line, `nfa-flow`: exact flow and optimizers, sweeps, studies, and figures of stored results.

`nfa-flow --version` prints the version.
"""

import os
import sys
from typing import Annotated

import tyro

from ..run.interrupts import never_ignored
from .flow import Flow
from .plot import Plot
from .study import Study
from .sweep import Sweep
from .terminal import complain, console, print_anywhere


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 an error, 130 interrupted, 1 if nobody reads all output (`| head`)."""
    print_anywhere()
    debug = False
    try:
        with never_ignored():
            command = _parsed(sys.argv[1:] if arguments is None else arguments)
            debug = command is not None and command.debug
            if command is not None:
                command.run()
    except KeyboardInterrupt:
        complain("Interrupted. The same command goes on from here.")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        complain(f"{type(error).__name__}: {error or 'no reason given; --debug shows where'}")
        sys.exit(2)


def _parsed(arguments: list[str]) -> Flow | Sweep | Study | Plot | None:
    if arguments == ["--version"]:
        from nfa_flow import __version__

        console().print(f"nfa_flow {__version__}")
        return None
    commands = (
        Annotated[Flow, tyro.conf.subcommand("flow")]
        | Annotated[Sweep, tyro.conf.subcommand("sweep")]
        | Annotated[Study, tyro.conf.subcommand("study")]
        | Annotated[Plot, tyro.conf.subcommand("plot")]
    )
    return tyro.cli(commands, prog="nfa-flow", args=arguments, description=__doc__)  # pyright: ignore[reportCallIssue, reportArgumentType]
