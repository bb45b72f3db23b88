"""How the lanes of a group are integrated: in sequence, in lockstep, or by plain calls."""
