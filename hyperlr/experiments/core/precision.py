"""Float64 for a block of code, whatever the user's global setting."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """A block in which JAX computes in float64; the global flag is as before after it.

    The flag itself is set: the context manager of JAX that does this has moved between the versions
    that are supported.
    """
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)
