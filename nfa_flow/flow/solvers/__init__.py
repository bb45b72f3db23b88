"""Solvers for gradient flow: ordinary diffrax solvers, one a file."""
