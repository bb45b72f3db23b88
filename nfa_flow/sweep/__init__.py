"""One function over many settings: grids, batched runs, and a store that loses nothing.

The words of this package, in the order in which a sweep meets them:

- **grid**: named axes with their values; every combination is a **setting**, and the call of the user's function
  `one_run` with it is a run (`grid`).
- **group**: the runs that one compiled program serves, because they differ in numbers only (`plan`).
- **lane**: one run of a group on its way to its end (`engines.engine`).
- **stage**: what `one_run` does from one integration inside it to the next (`engines.stages`, with a picture).
- **engine**: how the lanes of a group are brought through their stages: in sequence, in lockstep, or by plain calls of
  `one_run` (`engines`).
- **workers**: who runs the engines: threads of this process, or an executor (`workers`).
- **result**: what is kept of a finished run, as plain numpy arrays (`result`).
- **store**: the finished runs on disk, and the labeled dataset of all of them (`store`).
- **part**: some finished runs in the store, written at once and never changed (`store.parts`).

From the call of `sweep` on, the user's function is in one object (`one_run.OneRun`), which an engine calls, as a whole
or stage by stage. What decides the results, and so whether a store can be resumed, is described in `identity`.
"""

from .grid import Grid as Grid
from .grid import batched as batched
from .grid import looped as looped
from .grid import zipped as zipped
from .sweep import SweepInterrupted as SweepInterrupted
from .sweep import load_sweep as load_sweep
from .sweep import sweep as sweep
