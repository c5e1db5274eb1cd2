"""The Hessian-vector product, on which everything about curvature rests."""

from collections.abc import Callable
from typing import Any

import jax

from hyperlr._derivatives import hessian_product

Tree = Any


def hvp(value_fn: Callable[[Tree], jax.Array], params: Tree, vector: Tree) -> Tree:
    """The product of a loss's Hessian with a vector, without the Hessian.

    With L the ``value_fn``, w the ``params`` and v the ``vector``::

        H v = ∇²L(w) v = d/dr ∇L(w + r v) at r = 0

    Args:
      value_fn: L, a scalar function of the parameters, twice differentiable.
      params: w, a pytree of floating-point arrays.
      vector: v, like ``params`` in structure, shapes and dtypes.

    Returns:
      H v, like ``params``; forward over reverse mode, at the cost of about two gradients. ``jvp``,
      ``vjp`` and ``vmap`` are supported, if ``value_fn`` supports them.

    Raises:
      TypeError: ``value_fn`` does not return a scalar, or contains a ``custom_vjp``.

    Example:
      >>> import jax.numpy as jnp
      >>> from hyperlr.curvature import hvp
      >>> print(hvp(lambda w: w[0] ** 2 * w[1] ** 3, jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])))
      [16. 24.]

    References:
      Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 1994.
    """
    return hessian_product(value_fn, params, vector)
