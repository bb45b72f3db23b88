"""One function over many settings: grids, batched runs, and a store that loses nothing.

The words of this package, in the order in which a sweep meets them:

- **grid**: named axes with their values. Every combination of values is a **setting**. A run is one call of the user's
  function `one_run` with a setting, and the key of the setting identifies it everywhere (`grid`).
- **group**: runs that share one compiled program, because they differ only in numbers (`plan`).
- **lane**: one run of a group while it is computed (`engines.engine`).
- **stage**: the part of `one_run` from one integration inside it to the next (`engines.stages`, with a picture).
- **engine**: a way to compute the lanes of a group: in sequence, in lockstep, or by plain calls of `one_run`
  (`engines`).
- **workers**: the threads of this process, or the executor, on which engines run (`workers`).
- **result**: the data that are kept of a finished run, as plain numpy arrays (`result`).
- **store**: the finished runs on disk, and the labeled dataset of all runs (`store`).
- **part**: some finished runs in the store, written together and never changed (`store.parts`).

From the call of `sweep` on, the user's function is in one object (`one_run.OneRun`). An engine calls it as a whole or
stage by stage. A store can be resumed only if everything that decides the results is the same; `identity` describes
these things.
"""

from .grid import Grid as Grid
from .grid import batched as batched
from .grid import looped as looped
from .grid import zipped as zipped
from .sweep import SweepInterrupted as SweepInterrupted
from .sweep import load_sweep as load_sweep
from .sweep import sweep as sweep
