"""Checks of a schedule's parameters; a traced value passes unchecked."""

from numbers import Real
from typing import Any

import jax


def check_numbers(**parameters: Any) -> None:
    """Raises where a function, such as another schedule, stands in place of a number."""
    for name, value in parameters.items():
        if callable(value):
            raise TypeError(
                f"{name} must be a number, got {value!r}: multiply two schedules instead, "
                "lambda step: first(step) * second(step)"
            )


def check_at_least(name: str, value: Any, least: float) -> None:
    """Raises unless a static ``value`` is at least ``least``."""
    check_numbers(**{name: value})
    if isinstance(value, Real) and not float(value) >= least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_static(name: str, value: Any, instead: str) -> None:
    """Raises where ``value`` is traced, though the formula branches on it."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} must be static, got a traced value: {instead}")
