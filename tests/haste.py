"""What makes the tests' own processes faster, without a change of what they compute; importing it is enough."""

import contextlib
import functools
import gc
import threading

# Traced programs are millions of objects that stay: with Python's own thresholds, going through them again and again is
# an eighth of the time.
gc.set_threshold(20_000, 20, 50)

# JAX sets up the dialects of its compiler anew for each program, which takes as long as compiling a small one. Here
# each thread does so once, and once more for programs that are compiled while another one is lowered. Where another
# version of JAX hides this elsewhere, the tests are only slower.
with contextlib.suppress(ImportError, AttributeError):
    from jax._src.interpreters import mlir

    set_up = mlir.make_ir_context
    context_of = functools.cache(lambda thread, around: set_up())
    mlir.make_ir_context = lambda: context_of(threading.get_ident(), mlir.ir.Context.current)
