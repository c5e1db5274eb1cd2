"""Checks of static hyperparameters; a traced value or an array passes unchecked."""

from numbers import Real
from typing import Any


def check_root(name: str, value: Any) -> None:
    """Raises unless the static ``value`` that is added inside a root is positive."""
    _check_number(name, value)
    if isinstance(value, Real) and not float(value) > 0:
        raise ValueError(
            f"{name} must be positive, got {value}: without it inside the root a parameter whose "
            "gradient is zero has no finite tangent; pass a small number or leave the default"
        )


def check_eps(value: Any) -> None:
    """Raises unless a static ``eps``, which is added outside the root, is at least 0."""
    _check_number("eps", value)
    if isinstance(value, Real) and not float(value) >= 0:
        raise ValueError(f"eps must be at least 0, got {value}: for example eps=1e-8")


def check_decay(name: str, value: Any) -> None:
    """Raises unless a static decay rate lies in [0, 1)."""
    _check_number(name, value)
    if isinstance(value, Real) and not 0 <= float(value) < 1:
        raise ValueError(
            f"{name} must lie in [0, 1), got {value}: it is the part of a running average that "
            f"is kept each step, for example {name}=0.9"
        )


def _check_number(name: str, value: Any) -> None:
    if callable(value):
        raise TypeError(
            f"{name} must be a number, got {value!r}: only learning_rate and weight_decay may be "
            "schedules; for another, give the factory to optax.inject_hyperparams, as in "
            f"optax.inject_hyperparams(hyperlr.optimizers.adam)(learning_rate=0.1, {name}=schedule)"
        )
