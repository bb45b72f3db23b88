"""The command line, `nfa-flow`: exact flow beside optimisers, sweeps, studies, and figures of what was stored."""

import sys
from typing import Annotated

import tyro

from .flow import Flow
from .plot import Plot
from .study import Study
from .sweep import Sweep


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 an error, 130 interrupted."""
    commands = (
        Annotated[Flow, tyro.conf.subcommand("flow")]
        | Annotated[Sweep, tyro.conf.subcommand("sweep")]
        | Annotated[Study, tyro.conf.subcommand("study")]
        | Annotated[Plot, tyro.conf.subcommand("plot")]
    )
    command = tyro.cli(commands, prog="nfa-flow", args=arguments, description=__doc__)  # pyright: ignore[reportCallIssue, reportArgumentType]
    try:
        command.run()
    except KeyboardInterrupt:
        _complain("Interrupted. The same command goes on from here.")
        sys.exit(130)
    except Exception as error:
        if command.debug:
            raise
        _complain(f"{type(error).__name__}: {error}")
        sys.exit(2)


def _complain(message: str) -> None:
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(message, style="red", markup=False, highlight=False)
