"""One learning rate for each group of parameters."""

from collections.abc import Callable
from typing import Any

import optax


def per_group(
    inner: Callable[..., optax.GradientTransformation], labels: Any
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """A factory with one learning rate for each group of parameters.

    Args:
      inner: factory of the optimizer of every group, called as ``inner(learning_rate=...)``.
      labels: a tree like the parameters, or a prefix of it, with the name of its group at each
        leaf; or a function that makes one from the parameters (``optax.partition``).

    Returns:
      A factory for :func:`hyperlr.online`, called with one rate for each name of a group. Each
      group is stepped by an optimizer of its own; the tangents are those of all parameters
      together, since a rate acts on every group through the gradients.

    Example:
      >>> import jax.numpy as jnp, optax, hyperlr
      >>> labels = {"backbone": "slow", "head": "fast"}
      >>> tx = hyperlr.online(
      ...     hyperlr.per_group(optax.adam, labels),
      ...     {"slow": 1e-4, "fast": 1e-2},
      ...     hyper_optimizer=hyperlr.exponentiated_gradient(0.1),
      ... )
      >>> state = tx.init({"backbone": jnp.ones(3), "head": jnp.ones(2)})
      >>> print(hyperlr.metrics(state)["fast"])
      0.01

    References:
      ``optax.partition``.
    """

    def factory(**rates: Any) -> optax.GradientTransformationExtraArgs:
        groups = {name: inner(learning_rate=rate) for name, rate in rates.items()}
        return optax.partition(groups, labels)

    return factory
