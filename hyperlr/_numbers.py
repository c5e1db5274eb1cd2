"""Numbers made from trees, in at least float32: inner products and norms, kept finite."""

import jax
import jax.numpy as jnp

from hyperlr import _trees
from hyperlr._trees import Tree


def saturated(x: jax.Array) -> jax.Array:
    """``x`` with the largest finite number in place of ∞, so that 0 · x is 0; NaN stays."""
    return _clamped(x, float(jnp.finfo(x.dtype).max))


def summable(tree: Tree) -> Tree:
    """``tree`` with its entries held within ±√(max / 2n), of n floating-point entries in all.

    max is the largest number of the dtype of accumulation. No inner product of two such trees
    overflows, so none is ∞ − ∞; nor do many linear maps of one. NaN stays.
    """
    num_entries = sum(x.size for x in jax.tree.leaves(tree))
    largest = float(jnp.finfo(_trees.accumulation_dtype(tree)).max) / (2 * max(num_entries, 1))
    return jax.tree.map(
        lambda x: _clamped(x, min(largest**0.5, float(jnp.finfo(x.dtype).max))), tree
    )


def _clamped(x: jax.Array, largest: float) -> jax.Array:
    """``x`` within ±largest, in a single operation an entry."""
    return jax.lax.clamp(jnp.array(-largest, x.dtype), x, jnp.array(largest, x.dtype))


def inner_product(x: Tree, y: Tree) -> jax.Array:
    """⟨x, y⟩ over two trees, accumulated in at least float32."""
    dtype = _trees.accumulation_dtype((x, y))
    # A sum of products, not jnp.vdot: flattening a sharded array would gather it first.
    products = jax.tree.map(lambda a, b: jnp.sum(a.astype(dtype) * b.astype(dtype)), x, y)
    return sum(jax.tree.leaves(products), start=jnp.zeros((), dtype))


def norm(tree: Tree) -> jax.Array:
    """‖x‖ over a tree, accumulated in at least float32; its derivative at 0 is 0."""
    squared = inner_product(tree, tree)
    # Two wheres: the root has no derivative at 0, and in the branch not taken it needs one, too.
    # Compared with 0 for equality, since the norm of NaN must not come out as 0.
    zero = squared == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)))
