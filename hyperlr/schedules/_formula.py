"""A schedule from the formula of its value, and the phases that several formulas share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperlr._trees import accumulation_dtype

Number = float | jax.Array


def schedule_of(formula: Callable[..., Any], *parameters: Any) -> optax.Schedule:
    """The schedule step ↦ formula(step, *parameters), whose parameters may be traced.

    An integer step meets parameters of any dtype here, so that the mixture is ours, and no fault of
    a caller who has promotion of dtypes set to strict. What is in half precision is widened, since
    bfloat16 cannot count.
    """

    def schedule(step: Number) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return formula(*map(_at_least_float32, (step, *parameters)))

    return schedule


def fraction(step: Number, begin: Number, length: Number) -> jax.Array:
    """How much of a phase is over: 0 until ``begin``, then rising to 1 in ``length`` steps.

    A phase of length 0 is over as soon as it begins.
    """
    elapsed = step - begin  # of integers, and exact, where the numbers of steps are
    # The division must be finite where it is not taken, too, for its derivative.
    part = jnp.clip(1.0 * elapsed / jnp.where(length == 0, 1, length), 0, 1)
    return jnp.where(length == 0, elapsed >= 0, part)


def between(start: Number, end: Number, part: jax.Array) -> jax.Array:
    """From ``start`` at part 0 to ``end`` at part 1 along a line, and exact at both."""
    return (1 - part) * start + part * end


def cosine_part(part: jax.Array) -> jax.Array:
    """½ (1 − cos(π part)): from 0 to 1 as ``part`` is, but along half a period of a cosine."""
    return 0.5 * (1 - jnp.cos(jnp.pi * part))


def _at_least_float32(x: Any) -> Any:
    """``x``, but not in half precision; a Python number stays as weakly typed as it is."""
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return x if x.dtype == accumulation_dtype(x) else jnp.asarray(x, accumulation_dtype(x))
