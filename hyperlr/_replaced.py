"""A tree that is replaced now and then, and otherwise neither copied nor touched."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hyperlr._trees import Tree


def replaced_if(condition: jax.Array, replacement: Callable[[Tree], Tree], tree: Tree) -> Tree:
    """``replacement(tree)``, of the same shapes, where ``condition`` holds; else ``tree``.

    A loop that is run through once or not at all: XLA leaves a carry where it is, while it copies
    what a ``lax.cond`` only passes on. What in ``replacement`` depends on nothing in ``tree`` is
    taken out of the loop, and computed always.
    """

    def replace(carry: tuple[jax.Array, Tree]) -> tuple[jax.Array, Tree]:
        _, old = carry
        new = jax.tree.map(lambda x, y: jnp.asarray(x).astype(y.dtype), replacement(old), old)
        return jnp.zeros((), bool), new

    return jax.lax.while_loop(lambda carry: carry[0], replace, (condition, tree))[1]
