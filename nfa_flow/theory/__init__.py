"""Closed forms and predictions to lay over computed trajectories.

They share no code with the flow: numpy and scipy on the host, float64 whatever JAX is set to.
"""

from .balance import balance_decay as balance_decay
from .end_to_end import balanced_nfm as balanced_nfm
from .end_to_end import end_to_end_flow as end_to_end_flow
from .lambda_balanced import lambda_balanced_nfm as lambda_balanced_nfm
from .orthogonal_support import OrthogonalSupport as OrthogonalSupport
from .orthogonal_support import best_diagonal_cosine as best_diagonal_cosine
from .orthogonal_support import diagonal_cosine as diagonal_cosine
from .orthogonal_support import orthogonal_support as orthogonal_support
from .orthogonal_support import orthogonal_support_limit as orthogonal_support_limit
from .scalar_mode import scalar_fixed_points as scalar_fixed_points
from .scalar_mode import scalar_mode as scalar_mode
from .two_layer import TwoLayer as TwoLayer
from .two_layer import two_layer as two_layer
