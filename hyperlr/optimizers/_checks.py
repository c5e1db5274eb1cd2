"""Checks of static hyperparameters; a traced value or an array passes unchecked."""

from numbers import Real

import jax


def check_eps(eps: jax.typing.ArrayLike) -> None:
    """Raises unless a static ``eps`` is positive."""
    if isinstance(eps, Real) and not float(eps) > 0:
        raise ValueError(
            f"eps must be positive, got {eps}: without it a parameter whose gradient is zero has "
            "no finite tangent; pass a small number or leave the default"
        )


def check_decay(name: str, value: jax.typing.ArrayLike) -> None:
    """Raises unless a static decay rate lies in [0, 1)."""
    if isinstance(value, Real) and not 0 <= float(value) < 1:
        raise ValueError(
            f"{name} must lie in [0, 1), got {value}: it is the part of a running average that "
            f"is kept each step, for example {name}=0.9"
        )
