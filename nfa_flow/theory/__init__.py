"""Closed forms and predictions, for comparison with computed trajectories.

They share no code with the flow: they use numpy and scipy on the host, in float64 for any setting of JAX. The one
exception is the ridge regression after one gradient step, which uses JAX: its test loss is a derivative of its training
loss, and both may be traced and batched over all numbers on which they depend.
"""

from .balance import balance_decay as balance_decay
from .deep_linear_mup import infinite_deep_linear_mup as infinite_deep_linear_mup
from .early_alignment import early_alignment as early_alignment
from .end_to_end import balanced_nfm as balanced_nfm
from .end_to_end import end_to_end_flow as end_to_end_flow
from .hermite import Hermite as Hermite
from .hermite import HermiteSeries as HermiteSeries
from .hermite import hermite as hermite
from .hermite import hermite_series as hermite_series
from .hermite import information_exponent as information_exponent
from .lambda_balanced import lambda_balanced_nfm as lambda_balanced_nfm
from .linear_mup import LinearMuP as LinearMuP
from .linear_mup import infinite_linear_mup as infinite_linear_mup
from .linear_mup import infinite_width_nfm as infinite_width_nfm
from .linear_mup import linear_mup as linear_mup
from .one_step.bulk import feature_bulk_edge as feature_bulk_edge
from .one_step.bulk import feature_outliers as feature_outliers
from .one_step.low_rank import spike_matrix as spike_matrix
from .one_step.ridge import ResolventTraces as ResolventTraces
from .one_step.ridge import RidgeLosses as RidgeLosses
from .one_step.ridge import finite_ridge_losses as finite_ridge_losses
from .one_step.ridge import linear_losses as linear_losses
from .one_step.ridge import resolvent_traces as resolvent_traces
from .one_step.ridge import ridge_losses as ridge_losses
from .one_step.spikes import GradientDirection as GradientDirection
from .one_step.spikes import gradient_direction as gradient_direction
from .one_step.spikes import spike_boundaries as spike_boundaries
from .one_step.spikes import spike_orders as spike_orders
from .one_step.spikes import spike_sizes as spike_sizes
from .orthogonal_support import OrthogonalSupport as OrthogonalSupport
from .orthogonal_support import best_diagonal_cosine as best_diagonal_cosine
from .orthogonal_support import diagonal_cosine as diagonal_cosine
from .orthogonal_support import orthogonal_support as orthogonal_support
from .orthogonal_support import orthogonal_support_limit as orthogonal_support_limit
from .scalar_mode import scalar_fixed_points as scalar_fixed_points
from .scalar_mode import scalar_mode as scalar_mode
from .two_layer import TwoLayer as TwoLayer
from .two_layer import two_layer as two_layer
