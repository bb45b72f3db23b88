"""Numerical kernels that know nothing of networks: BLAS threads, factorizations, Lanczos, precision."""
