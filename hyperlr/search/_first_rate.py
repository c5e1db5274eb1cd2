"""A learning rate to begin with, from forward passes alone: how far the loss falls in one step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Quarters of a decade from 1e-8 to 1e2.
_EXPONENTS = [-8 + i / 4 for i in range(41)]


def first_rate(
    loss_after: Callable[[jax.Array], jax.Array],
    loss: jax.Array,
    *,
    enough: float = 0.1,
    fraction: float = 0.1,
) -> jax.Array:
    r"""A safe learning rate to begin with, which a method that learns it can start from.

    Of a ladder of rates from 1e-8 to 1e2 in quarters of a decade, with f(η) the fall of the loss in
    one step from the first parameters with the rate η::

        η_0 = fraction · min{η : f(η) ≥ enough · max f}

    The rate of the largest fall itself is no good choice: one step says nothing of the curvature
    that the later ones meet, and differs by a factor of ten between seeds. The smallest rate with a
    tenth of that fall does not; a tenth of it again leaves room, and growing is quick.

    Args:
      loss_after: the loss after a step with a rate, on the same minibatch; evaluated for one rate
        after the other, in a loop inside the compiled program.
      loss: the loss before it.
      enough: the part of the largest fall that is enough, in (0, 1]; default a tenth.
      fraction: the part of the rate found that is returned, > 0; default a tenth.

    Returns:
      η_0, a scalar of the dtype of ``loss``; where no rate lowers the loss, the smallest one.
      Supports ``jit``, ``scan`` and ``vmap``.

    Example:
      >>> import jax.numpy as jnp
      >>> from hyperlr.search import first_rate
      >>> loss = lambda w: w**2  # a step with the rate η leads from 1 to 1 - 2 η
      >>> print(f"{first_rate(lambda rate: loss(1 - 2 * rate), loss(1.0)):.4f}")
      0.0032
    """
    rates = 10.0 ** jnp.array(_EXPONENTS, jnp.result_type(loss))
    falls = loss - jax.lax.map(loss_after, rates)
    falls = jnp.where(jnp.isfinite(falls), falls, -jnp.inf)
    is_enough = (falls >= enough * jnp.max(falls)) & (falls > 0)
    # The first that is; argmax of all False is 0, the smallest rate.
    return fraction * rates[jnp.argmax(is_enough)]
