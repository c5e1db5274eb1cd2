"""Descents in the plane, in float64: one for each of several numbers, by one compiled program."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


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


def descend(
    make: Callable[[jax.Array], optax.GradientTransformation],
    gradient: Callable[[jax.Array, Any], tuple[jax.Array, dict[str, Any]]],
    record: Callable[..., Any],
    start: Any,
    numbers: Any,
    items: Any,
) -> tuple[np.ndarray, Any]:
    """Descends from the same start with every number, in float64.

    Args:
      make: builds the optimizer from a number, such as η_0 or β.
      gradient: from the point and the item of a step, the gradient and the extra arguments of the
        update.
      record: `record(number, before, after, item)`: what to keep of a step, from the states of the
        optimizer before and after it. These functions are what the compiled program is found by.
      start: the first point, [n].
      numbers: [R].
      items: a pytree whose arrays lead with the step, [T, ...].

    Returns:
      The points, float64 [R, T + 1, n], from the start on; and the records, [R, T, ...].
    """
    with float64():
        start, numbers = (jnp.asarray(x, jnp.float64) for x in (start, numbers))
        points, records = _descend(make, gradient, record, start, numbers, items)
        return np.asarray(points), jax.tree.map(np.asarray, records)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _descend(
    make: Any, gradient: Any, record: Any, start: jax.Array, numbers: jax.Array, items: Any
) -> tuple[jax.Array, Any]:
    def one(number: jax.Array) -> tuple[jax.Array, Any]:
        optimizer = optax.with_extra_args_support(make(number))

        def step(carry: tuple[Any, Any], item: Any) -> tuple[Any, Any]:
            point, before = carry
            grads, extra = gradient(point, item)
            updates, after = optimizer.update(grads, before, point, **extra)
            point = optax.apply_updates(point, updates)
            return (point, after), (point, record(number, before, after, item))

        _, (points, records) = jax.lax.scan(step, (start, optimizer.init(start)), items)
        return jnp.concatenate([start[None], points]), records

    return jax.vmap(one)(numbers)
