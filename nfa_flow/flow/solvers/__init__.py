"""Solvers for gradient flow: ordinary diffrax solvers, one per file."""
