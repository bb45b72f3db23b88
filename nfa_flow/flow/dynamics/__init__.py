"""Equations of motion for the parameters of a flow: that of the gradient, and those that optimizers follow."""

from .abstract import AbstractDynamics as AbstractDynamics
from .adam import Adam as Adam
from .adam import AdamW as AdamW
from .gradient import Gradient as Gradient
from .gradient import Modified as Modified
from .heavy_ball import HeavyBall as HeavyBall
from .natural_gradient import NaturalGradient as NaturalGradient
from .normalized import Muon as Muon
from .normalized import Sign as Sign
from .recognize import of as of
from .rmsprop import RMSProp as RMSProp
