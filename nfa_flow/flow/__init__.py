"""Exact gradient flow."""

from .flow_solver import AbstractFlowSolver as AbstractFlowSolver
from .gradient_flow import gradient_flow as gradient_flow
from .ndf import NDF as NDF
from .newton_cg import NewtonCG as NewtonCG
from .rkc2 import RKC2 as RKC2
from .stopping import AbstractStop as AbstractStop
from .stopping import GradientNormBelow as GradientNormBelow
from .stopping import LossBelow as LossBelow
from .times import log_times as log_times
from .tsrkc3 import TSRKC3 as TSRKC3
