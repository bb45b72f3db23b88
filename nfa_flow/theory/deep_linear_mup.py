"""The deep linear network in the maximal update parametrization at infinite width.

With hidden width n and the mobilities n, 1, …, 1, 1/n of muP, u = W_1 and v = nW_L have entries of order one, and with
h_l = W_l⋯W_2u, g_l = W_{l+1}ᵀ⋯W_{L−1}ᵀvᵀ and E = P S_xx − S_yx gradient flow of the squared loss is

    u' = −g_1 E,   W_l' = −g_l E h_{l−1}ᵀ/n,   v' = −E h_{L−1}ᵀ.

All vectors in these equations are words in the W_l(0) and their transposes, applied to u(0) or v(0)ᵀ, and scalar
products of these over n. The W_l(0) of 1 < l < L are square Gaussian matrices of variance 1/n: for n = ∞ they are free,
u(0) and v(0) are independent of them, and so

- applied to a word, W_l(0) gives a new word of the next layer, orthogonal to all earlier ones, plus the word from which
  W_l(0)ᵀ has made this one, if it was made so;
- the words made from one column are a tree, and the W_l(0) its edges.

The infinitely wide network is then the plain gradient flow of a sparse one whose neurons are words; for two layers it
is that of `infinite_linear_mup`. If only words of at most k letters are kept, the network is finite, and the error
falls faster than geometrically in k. These are the equations of dynamical mean-field theory in other coordinates, which
need no grid in time.

**Source:** Bordelon & Pehlevan 2022 (dynamical mean-field theory of deep linear networks); Voiculescu 1991 (Gaussian
matrices are asymptotically free, as creation and annihilation operators are).
"""

from functools import reduce
from itertools import pairwise

import numpy as np
from jaxtyping import Float64

from ..checks import require_integer, require_number
from ..numerics.blas import on_one_blas_thread
from ._host import ArrayLike, Number, as_array
from ._integrate import integrate
from .linear_mup import LinearMuP, start_variances

_FIRST_LENGTH, _MORE = 4, 2
_LARGEST = 1000  # neurons of a layer


@on_one_blas_thread
def infinite_deep_linear_mup(
    times: ArrayLike,
    S_xx: ArrayLike,
    S_yx: ArrayLike,
    *,
    depth: int,
    alpha: Number | None = None,
    beta: Number = 1.0,
    rtol: Number = 1e-6,
) -> LinearMuP:
    """A deep linear network under gradient flow with the mobilities of `nf.nets.muP()`, in the limit of infinite width.

    It starts from independent weights; those of the hidden layers have the variance 1/n. The words become two letters
    longer until no result changes by more than `rtol` of its largest entry.

    **Arguments:** `times`: (t,), non-negative, ascending; `S_xx`: XᵀX/samples, (d, d), and `S_yx`: YᵀX/samples, (c, d),
    for data in rows; `depth`: L ≥ 2; `alpha`: variance of the entries of W_1 at the start, 1/d by default; `beta`: n²
    times that of W_L; `rtol`: relative error, at least 1e-9.
    **Returns:** a `LinearMuP`: W_1ᵀW_1/n, P = W_L⋯W_1, nW_LW_Lᵀ and AGOP = PᵀP.
    **Raises:** ValueError for shapes that do not fit or an argument out of range; RuntimeError if there are too many
    words before `rtol` is reached, as in long training of many layers.
    """
    S_yx = as_array("S_yx", S_yx, "c", "d")
    S_xx = as_array("S_xx", S_xx, S_yx.shape[1], S_yx.shape[1])
    require_integer("depth", depth, at_least=2)
    alpha, beta = start_variances(alpha, beta, S_yx.shape[1])
    require_number("rtol", rtol, at_least=1e-9)
    length, shorter, change = _FIRST_LENGTH, None, np.inf
    while True:
        words = word_matrices(depth - 1, length)
        if depth > 2 and _neurons(words, S_yx.shape) > _LARGEST:
            raise RuntimeError(
                f"words of {length} letters take layers of more than {_LARGEST} neurons, and the last change by longer "
                f"words was {'not yet known' if shorter is None else f'{change:.1e}'}, `rtol` is {rtol:g}: allow a "
                f"larger `rtol`, or shorter times, or take fewer layers, inputs or outputs"
            )
        network = _flow(times, _start(words, S_yx.shape, alpha, beta), S_xx, S_yx)
        if shorter is not None:
            change = _change(shorter, network)
        if depth == 2 or change <= rtol:  # between two layers no word has any letter
            return network
        shorter, length = network, length + _MORE


def word_matrices(hidden: int, length: int) -> list[Float64[np.ndarray, "after before"]]:
    """W_2(0), …, W_{L−1}(0) between the words made from one neuron of the first of the `hidden` layers.

    **Returns:** matrices of ones, where a word of `length` letters or fewer was made from another, and zeros.
    """
    counts, edges = [1] + [0] * (hidden - 1), [[] for _ in range(hidden - 1)]
    ends = [(0, 0)]
    for _ in range(length):
        parents, ends = ends, []
        for layer, parent in parents:
            for neighbor in {layer - 1, layer + 1} & set(range(hidden)):
                child = counts[neighbor]
                edges[min(layer, neighbor)].append((child, parent) if neighbor > layer else (parent, child))
                ends.append((neighbor, child))
                counts[neighbor] += 1
    matrices = [np.zeros((after, before)) for before, after in pairwise(counts)]
    for matrix, ones in zip(matrices, edges, strict=True):
        matrix[tuple(np.transpose(ones))] = 1
    return matrices


def _counts(words) -> list[int]:
    """How many of these words there are in each hidden layer."""
    return [words[0].shape[1], *map(len, words)] if words else [1]


def _neurons(words, shape) -> int:
    """The largest number of neurons of a layer."""
    outputs, inputs = shape
    counts = _counts(words)
    return max(forth * inputs + back * outputs for forth, back in zip(counts, reversed(counts), strict=True))


def _start(words, shape, alpha, beta) -> list[Float64[np.ndarray, "after before"]]:
    """Weights between words: those made from the columns of u in front, those from the rows of v behind."""
    outputs, inputs = shape
    back = [matrix.T for matrix in reversed(words)]  # the same seen from the last layer
    counts = _counts(words)
    first, last = counts[0], counts[-1]
    hidden = [
        _beside(np.kron(W, np.eye(inputs)), np.kron(V, np.eye(outputs))) for W, V in zip(words, back, strict=True)
    ]
    u = np.zeros((first * inputs + last * outputs, inputs))
    v = np.zeros((outputs, last * inputs + first * outputs))
    u[:inputs] = np.sqrt(alpha) * np.eye(inputs)
    v[:, last * inputs :][:, :outputs] = np.sqrt(beta) * np.eye(outputs)
    return [u, *hidden, v]


def _beside(A, B):
    return np.block([[A, np.zeros((len(A), B.shape[1]))], [np.zeros((len(B), A.shape[1])), B]])


def _flow(times, weights, S_xx, S_yx) -> LinearMuP:
    """The plain gradient flow of these weights."""

    def field(*weights):
        below = [np.eye(len(S_xx))]
        for W in weights:
            below.append(W @ below[-1])
        slopes, above = [], S_yx - below.pop() @ S_xx
        for W, h in zip(reversed(weights), reversed(below), strict=True):
            slopes.append(above @ h.T)
            above = W.T @ above
        return slopes[::-1]

    u, *hidden, v = integrate(times, field, weights)
    P = reduce(lambda product, W: W @ product, [*hidden, v], u)
    return LinearMuP(nfm=u.mT @ u, end_to_end=P, readout=v @ v.mT, agop=P.mT @ P)


def _change(old: LinearMuP, new: LinearMuP) -> float:
    """The largest change of a matrix in time, relative to its largest entry."""
    largest = lambda matrices: np.max(np.abs(matrices), initial=0.0)
    return max(largest(after - before) / max(largest(after), 1e-300) for before, after in zip(old, new, strict=True))
