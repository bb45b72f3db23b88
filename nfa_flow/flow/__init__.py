"""Exact gradient flow."""

from .gradient_flow import gradient_flow as gradient_flow
from .solvers.flow_solver import AbstractFlowSolver as AbstractFlowSolver
from .solvers.ndf import NDF as NDF
from .solvers.newton_bicgstab import NewtonBiCGStab as NewtonBiCGStab
from .solvers.newton_cg import NewtonCG as NewtonCG
from .solvers.piecewise import Piecewise as Piecewise
from .solvers.rkc2 import RKC2 as RKC2
from .solvers.smoothed import Smoothed as Smoothed
from .solvers.tsrkc3 import TSRKC3 as TSRKC3
from .stopping import AbstractStop as AbstractStop
from .stopping import GradientNormBelow as GradientNormBelow
from .stopping import LossBelow as LossBelow
from .stopping import Moment as Moment
from .stopping import StopAfter as StopAfter
from .stopping import StopWhen as StopWhen
from .times import log_times as log_times
