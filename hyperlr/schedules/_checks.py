"""A check of static lengths; a traced value passes unchecked."""

from numbers import Real
from typing import Any


def check_at_least(name: str, value: Any, least: float) -> None:
    """Raises unless a static ``value`` is at least ``least``."""
    if isinstance(value, Real) and not float(value) >= least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
