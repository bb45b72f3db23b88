"""The flow of two-layer networks across kinks by other means: `scipy.integrate` between events, box QPs at them.

f(x) = Σ_k a_k σ(w_k·x) with σ of slope `low` for negative and `high` for positive inputs, and the squared loss. Neurons
decouple at a contact: the velocity of w_k is the one of least norm over all slopes in [low, high] of its convex kinks.
"""

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import lsq_linear

AT_ZERO, ROUNDING = 1e-9, 1e-13
SCIPY = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-14, "max_step": 0.05}  # a kink may be passed and passed back


class BoxFlow:
    def __init__(self, x, y, low, high, *, weight=None, decay=0.0, mobility=(1.0, 1.0)):
        self.x, self.y = x, y[:, 0]
        self.low, self.high, self.decay, self.mobility = float(low), float(high), decay, mobility
        self.weight = np.full(len(x), 1 / len(x)) if weight is None else weight
        self.events = self.slides = 0

    def parts(self, theta, slope):
        """Pre-activations, hidden units and weighted residuals."""
        W, a = theta[: -self.units].reshape(self.units, -1), theta[-self.units :]
        z = self.x @ W.T
        hidden = np.where(self.sliding, 0, slope * z)
        return W, a, z, hidden, self.weight * (hidden @ a - self.y)

    def base(self, W, a, residual, slope, k):
        """The gradient of w_k without its sliding kinks."""
        return self.x.T @ (residual * np.where(self.sliding[:, k], 0, slope[:, k])) * a[k] + self.decay * W[k]

    def velocity(self, theta):
        """The velocity, and the slopes that keep the sliding kinks where they are."""
        W, a, z, hidden, residual = self.parts(theta, self.slope)
        slope, gradients = self.slope.copy(), []
        for k in range(self.units):
            gradient, on = self.base(W, a, residual, self.slope, k), self.sliding[:, k]
            if on.any():
                jumps = (residual[on] * a[k])[:, None] * self.x[on]
                # w_k stays orthogonal to these samples
                slope[on, k] = np.linalg.lstsq(self.x[on] @ jumps.T, -self.x[on] @ gradient, rcond=None)[0]
                gradient = gradient + slope[on, k] @ jumps
            gradients.append(gradient)
        first = -self.mobility[0] * np.concatenate(gradients)
        second = -self.mobility[1] * (hidden.T @ residual + self.decay * a)
        return np.concatenate([first, second]), slope, z

    def margin(self, t, theta):
        """Positive until a kink is crossed or a slide ends, also right after that, where rounding decides the sign."""
        _, slope, z = self.velocity(theta)
        sides = np.where(self.slope == self.high, 1, -1) * z
        inside = np.minimum(slope - self.low, self.high - slope)
        return np.min(np.where(self.sliding, inside, sides)) + ROUNDING

    margin.terminal, margin.direction = True, -1

    def on_surfaces(self, theta):
        """The weights with every kink that is touched at zero, not at the rounding where its event was found."""
        W, _, z, _, _ = self.parts(theta, self.slope)
        for k in range(self.units):
            on = np.abs(z[:, k]) < AT_ZERO
            W[k] -= np.linalg.lstsq(self.x[on], z[on, k], rcond=None)[0]
        return theta  # of which W is a view

    def resolve(self, theta):
        """New slopes at a contact."""
        _, slope, z = self.velocity(theta)
        W, a, _, _, residual = self.parts(theta, self.slope)
        ended = self.sliding & (np.minimum(slope - self.low, self.high - slope) < AT_ZERO)
        touching = np.abs(z) < AT_ZERO
        for k in np.flatnonzero(touching.any(axis=0)):
            on = touching[:, k]
            flipped = on & (residual * a[k] < 0) & ~self.sliding[:, k]
            self.slope[flipped, k] = self.low + self.high - self.slope[flipped, k]
            convex = on & ~flipped
            self.sliding[convex, k] = True
            base, jumps = self.base(W, a, residual, self.slope, k), (residual[convex] * a[k])[:, None] * self.x[convex]
            if convex.any():
                best = lsq_linear(jumps.T, -base, bounds=(self.low, self.high), method="bvls", tol=1e-14).x
                interior = np.minimum(best - self.low, self.high - best) > 1e-7
                interior &= ~ended[convex, k]
                self.slides += int(np.sum(interior & ~self.was_sliding[convex, k]))
                self.sliding[np.flatnonzero(convex), k] = interior
                middle = (self.low + self.high) / 2
                self.slope[np.flatnonzero(convex), k] = np.where(best > middle, self.high, self.low)
        self.events += 1

    def run(self, weights, t1):
        """The weights at t1."""
        theta, t = np.concatenate([weights[0].ravel(), weights[1].ravel()]), 0.0
        self.units = len(weights[0])
        z = self.x @ weights[0].T
        self.slope, self.sliding = np.where(z > 0, self.high, self.low), np.zeros(z.shape, bool)
        field = lambda t, theta: self.velocity(theta)[0]
        while t < t1:
            found = solve_ivp(
                field, (t, t1), theta, "DOP853", events=self.margin, rtol=1e-12, atol=1e-14, max_step=0.05
            )
            theta, t = found.y[:, -1], found.t[-1]
            if t < t1:
                theta = self.on_surfaces(theta)
                self.was_sliding = self.sliding.copy()
                self.resolve(theta)
        return theta
