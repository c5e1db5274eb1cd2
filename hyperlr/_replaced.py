"""A tree that is replaced now and then, and otherwise neither copied nor touched."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hyperlr._trees import Tree, is_float


def replaced_if(
    condition: jax.Array,
    replacement: Callable[[Tree, Tree], Tree],
    tree: Tree,
    argument: Tree = None,
) -> Tree:
    """``replacement(tree, argument)``, of equal shapes, where ``condition`` holds; else ``tree``.

    A loop that is run through once or not at all: XLA leaves a carry where it is, while it copies
    what a ``lax.cond`` only passes on. What in ``replacement`` depends on neither ``tree`` nor
    ``argument`` is taken out of the loop, and computed always.
    """

    def replace(carry: tuple[jax.Array, Tree]) -> tuple[jax.Array, Tree]:
        is_first, old = carry
        # Always the argument itself, but XLA does not know, and leaves what is made of it inside.
        shown = jax.tree.map(
            lambda x: jnp.where(is_first, x, jnp.zeros_like(x)) if is_float(x) else x, argument
        )
        new = replacement(old, shown)
        return ~is_first, jax.tree.map(lambda x, y: jnp.asarray(x).astype(y.dtype), new, old)

    return jax.lax.while_loop(lambda carry: carry[0], replace, (condition, tree))[1]
