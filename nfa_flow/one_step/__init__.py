"""One large gradient step on the first layer of a network, and ridge regression on the features after it.

The simulation for the closed forms in `nf.theory`: how many spikes there are, where they are, and how they change the
losses.
"""

from .features import features as features
from .features import gaussian_features as gaussian_features
from .features import powers as powers
from .network import Centered as Centered
from .network import Sizes as Sizes
from .network import SphereRows as SphereRows
from .network import sizes as sizes
from .network import two_layer_net as two_layer_net
from .ridge import RidgeFit as RidgeFit
from .ridge import ridge_fit as ridge_fit
from .spectrum import FeatureSpectrum as FeatureSpectrum
from .spectrum import feature_spectrum as feature_spectrum
from .spectrum import observed_spikes as observed_spikes
from .spectrum import spike_overlap as spike_overlap
from .step import cancel_output as cancel_output
from .step import flow_step as flow_step
from .step import gradient_vector as gradient_vector
from .step import one_step as one_step
