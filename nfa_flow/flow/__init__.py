"""Exact gradient flow."""

from .gradient_flow import gradient_flow as gradient_flow
from .ndf import NDF as NDF
from .stopping import AbstractStop as AbstractStop
from .stopping import GradientNormBelow as GradientNormBelow
from .stopping import LossBelow as LossBelow
from .times import log_times as log_times
