"""`python -m nfa_flow.cli` is `nfa-flow`."""

from . import main

if __name__ == "__main__":  # worker processes import this file, too
    main()
