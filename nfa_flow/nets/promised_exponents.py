"""The promises of a parametrization: how activations, outputs and their changes grow with the width."""

from .parametrization import AbstractParametrization


def promised_exponents(parametrization: AbstractParametrization, depth: int) -> dict[str, float | None]:
    """The powers of the width with which the sizes in a coordinate check grow, by name; None without a promise.

    **Arguments:** `parametrization`: a stable one promises all powers, others none; `depth`: the number of layers L, at
    least 2.
    **Raises:** ValueError naming `depth`.
    """
    own = parametrization.exponents.at_depth(depth)
    hidden = range(1, depth)
    names = [f"{what} {l}" for what in ("activation", "change", "update") for l in hidden]
    names = [*names, f"update {depth}", "output", "output change"]
    if not own.is_stable:
        return dict.fromkeys(names)
    r, start = own.update_exponents, own.std_exponents[-1]
    changes = [-min(r[:l]) for l in hidden]
    return dict(
        zip(
            names,
            [*(0.0 for _ in hidden), *changes, *(-each for each in r), 0.5 - start, -min(r[-1], start + own.r - 1)],
            strict=True,
        )
    )
