"""Float64 for a block of code, whatever the user's global setting."""

from contextlib import AbstractContextManager

import jax


def float64() -> AbstractContextManager[None]:
    """Returns a context in which JAX computes in float64; the global flag is as before after it."""
    # jax.enable_x64 replaced jax.experimental.enable_x64 in the course of the supported versions.
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # type: ignore[attr-defined]

    return enable_x64(True)
