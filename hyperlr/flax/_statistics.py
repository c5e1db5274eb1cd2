"""Running statistics of batch normalization for parameters that no training pass has seen."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from hyperlr import _trees


def recomputed_statistics(
    pass_fn: Callable[[Any, Any], Any], statistics: Any, batches: Iterable[Any]
) -> Any:
    r"""Running statistics at the parameters of ``pass_fn``, from some batches and nothing before.

    Running statistics belong to the parameters that made them. Those that
    :func:`hyperlr.eval_params` returns made none, so theirs are taken from batches here. Of one
    batch, with statistics b, a training pass makes ``m s + (1 − m) b`` of s; what n passes from 0
    lead to is divided by 1 − mⁿ, whatever the m of each layer is, as Adam does with its averages.

    Args:
      pass_fn: a training pass, ``pass_fn(statistics, batch) -> statistics``; it is compiled, and
        must not normalize by the running statistics, as no training pass does.
      statistics: a tree of arrays, such as ``batch_stats`` of linen; only its shapes matter.
      batches: some tens of training batches, of the same shapes, in any order.

    Returns:
      A tree like ``statistics``; its leaves that are no floats are those of the last pass.

    Raises:
      ValueError: there is no batch.

    Example:
      >>> import flax.linen as nn, hyperlr.flax, jax, jax.numpy as jnp
      >>> model = nn.BatchNorm(use_running_average=False)
      >>> variables = model.init(jax.random.key(0), jnp.ones((4, 1)))
      >>> def pass_fn(batch_stats, x):
      ...     given = {**variables, "batch_stats": batch_stats}
      ...     return model.apply(given, x, mutable="batch_stats")[1]["batch_stats"]
      >>> batches = [jnp.full((4, 1), 3.0)] * 5
      >>> found = hyperlr.flax.recomputed_statistics(pass_fn, variables["batch_stats"], batches)
      >>> print(f"{found['mean'][0]:.2f}")
      3.00

    References:
      Izmailov et al., 2018, Section 3.2, for averaged weights and batch normalization.
    """

    def lanes(x: Any) -> jax.Array:
        x = jnp.asarray(x)
        ends = [jnp.zeros_like(x), jnp.ones_like(x)] if _trees.is_float(x) else [x, x]
        return jnp.stack(ends)

    # What is left of a one at the beginning is mⁿ; the pass itself is the same in both lanes.
    both, step = jax.tree.map(lanes, statistics), jax.jit(jax.vmap(pass_fn, in_axes=(0, None)))
    num_batches = 0
    for batch in batches:
        both = step(both, batch)
        num_batches += 1
    if not num_batches:
        raise ValueError("batches is empty: pass some tens of training batches")

    def corrected(pair: jax.Array) -> jax.Array:
        from_zero, from_one = pair
        return from_zero / (1 - (from_one - from_zero)) if _trees.is_float(pair) else from_zero

    return jax.tree.map(corrected, both)


def recompute_statistics(
    model: nnx.Module,
    batches: Iterable[Any],
    forward: Callable[[nnx.Module, Any], Any] = lambda model, batch: model(batch),
) -> None:
    """:func:`recomputed_statistics` of an nnx model, written into it.

    Args:
      model: its parameters are those that count, see :func:`hyperlr.flax.eval_params`; its dropout
        keys and its mode stay as they are.
      batches: some tens of training batches of the same shapes.
      forward: passes a batch through the model, by default ``model(batch)``.

    Raises:
      ValueError: there is no batch.

    Example:
      >>> import hyperlr.flax, jax.numpy as jnp
      >>> from flax import nnx
      >>> model = nnx.BatchNorm(1, rngs=nnx.Rngs(0))
      >>> hyperlr.flax.recompute_statistics(model, [jnp.full((4, 1), 3.0)] * 5)
      >>> print(f"{model.mean[...][0]:.2f}")
      3.00

    References:
      As :func:`recomputed_statistics`.
    """
    graph, *states = nnx.split(model, nnx.BatchStat, ...)
    statistics, rest = states

    def pass_fn(statistics: nnx.State, batch: Any) -> nnx.State:
        copy = nnx.merge(graph, statistics, jax.tree.map(lambda x: x, rest))
        copy.train()
        forward(copy, batch)
        return nnx.state(copy, nnx.BatchStat)

    nnx.update(model, recomputed_statistics(pass_fn, statistics, batches))
