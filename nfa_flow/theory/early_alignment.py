"""Early alignment: the small neurons of a two-layer ReLU network on orthonormal inputs turn before they grow.

While the predictions are negligible, the residuals are the targets y_i, and no neuron sees another one. A balanced
neuron a σ(wᵀx), |a| = ‖w‖, has the coordinates w_i = wᵀx_i, and with s = sign a and n samples

    w_i' = ‖w‖ s y_i / n while w_i > 0,   w_i' = 0 otherwise.

In the time Φ = ∫‖w‖ dt each active coordinate is a straight line until it reaches zero, where it stays. Between these
events ‖w‖² is quadratic in Φ, so that Φ' = ‖w‖ makes Φ a sum of exponentials in t. Each neuron turns to its extremal
vector D = Σ_i y_i x_i / n over the samples with w_i(0) > 0 and s y_i > 0, and grows as e^{‖D‖t}.
"""

import numpy as np
from jaxtyping import Float64

from ..checks import wrong
from ._host import ArrayLike, as_array, as_times


def early_alignment(
    times: ArrayLike, weights: ArrayLike, signs: ArrayLike, targets: ArrayLike
) -> Float64[np.ndarray, "t m n"]:
    """The coordinates w_i of all neurons through time: the limit of the flow for small starts, over their scale.

    **Arguments:** `times`: (t,), non-negative; `weights`: (m, n), the coordinates of each neuron along the inputs at
    t = 0, in units of the scale of the start; `signs`: (m,), those of the output weights, ±1; `targets`: (n,), y_i.
    **Raises:** ValueError for arguments of other shapes, and signs that are not ±1.
    **Source:** Maennel, Bousquet & Gelly 2018; Boursier, Pillaud-Vivien & Flammarion 2022.
    """
    t = as_array("times", as_times(times), "t")
    w = as_array("weights", weights, "m", "n")
    y, s = as_array("targets", targets, w.shape[1]), as_array("signs", signs, w.shape[0])
    if not np.all(abs(s) == 1):
        raise wrong("signs", "1 or -1 for each neuron", s.tolist())
    return np.stack([_neuron(t, *each) for each in zip(w, np.outer(s, y) / y.size, strict=True)], axis=1)


def _neuron(t: np.ndarray, w: np.ndarray, pulls: np.ndarray) -> np.ndarray:
    pulls = np.where(w > 0, pulls, 0.0)
    ends = np.full(w.shape, np.inf)  # Φ where a coordinate reaches zero
    ends[pulls < 0] = -w[pulls < 0] / pulls[pulls < 0]
    phi, begins, phis = 0.0, 0.0, np.zeros(t.shape)
    for end in np.unique(ends):
        moving, here = np.where(ends >= end, pulls, 0.0), np.where(ends >= end, w + pulls * phi, 0.0)
        rate, speed, slope = np.linalg.norm(moving), np.linalg.norm(here), moving @ here
        later = t >= begins
        phis[later] = phi
        if not rate:
            break
        since = rate * (t[later] - begins)
        phis[later] += speed * np.sinh(since) / rate + slope * (np.cosh(since) - 1) / rate**2
        if np.isfinite(end):
            at_end = here + moving * (end - phi)
            start, finish = (moving @ v + rate * np.linalg.norm(v) for v in (here, at_end))
            begins, phi = begins + np.log(finish / start) / rate, end
    path = w + phis[:, None] * pulls
    return np.where(pulls < 0, np.maximum(path, 0.0), path)
