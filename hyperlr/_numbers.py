"""Numbers made from trees, in at least float32: inner products and norms, kept finite."""

import jax
import jax.numpy as jnp

from hyperlr import _trees
from hyperlr._trees import Tree


def saturated(x: jax.Array) -> jax.Array:
    """``x`` with the largest finite number in place of ∞, so that 0 · x is 0; NaN stays."""
    largest = float(jnp.finfo(x.dtype).max)
    return jax.lax.clamp(jnp.array(-largest, x.dtype), x, jnp.array(largest, x.dtype))


def ratio(numerator: jax.Array, denominator: jax.Array, otherwise: float = 0.0) -> jax.Array:
    """``numerator / denominator``, and ``otherwise`` where the denominator is 0.

    Two wheres: in the branch that is not taken the quotient must be finite, too, or its derivative
    would be 0 · ∞.
    """
    defined = denominator != 0
    quotient = numerator / jnp.where(defined, denominator, 1.0)
    return jnp.where(defined, quotient, otherwise)


def inner_product(x: Tree, y: Tree) -> jax.Array:
    """⟨x, y⟩ over two trees, accumulated in at least float32."""
    dtype = _trees.accumulation_dtype((x, y))
    # A sum of products, not jnp.vdot: flattening a sharded array would gather it first.
    products = jax.tree.map(lambda a, b: jnp.sum(a.astype(dtype) * b.astype(dtype)), x, y)
    return sum(jax.tree.leaves(products), start=jnp.zeros((), dtype))


def norm(tree: Tree) -> jax.Array:
    """‖x‖ over a tree, accumulated in at least float32; its derivative at 0 is 0."""
    squared = inner_product(tree, tree)
    # Two wheres, as in `ratio`: the root has no derivative at 0. Compared with 0 for equality,
    # since the norm of NaN must not come out as 0.
    zero = squared == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)))


def all_finite(tree: Tree) -> jax.Array:
    """Whether all real or complex numbers of a tree are finite."""
    dtype = _trees.accumulation_dtype(tree)
    sizes = [
        _largest(x).astype(dtype)
        for x in jax.tree.leaves(tree)
        if jnp.issubdtype(jnp.result_type(x), jnp.inexact)
    ]
    if not sizes:
        return jnp.ones((), bool)
    # Sorted, where a maximum or a conjunction would do: of those XLA makes one expression over all
    # leaves, which it repeats in every kernel that depends on it, so that the program grows with
    # the square of their number. NaN comes last, after ∞.
    return jnp.isfinite(jax.lax.sort(jnp.stack(sizes))[-1])


def _largest(x: jax.Array) -> jax.Array:
    """The largest modulus in an array; NaN wins every maximum."""
    # Along the leading axes first, which vectorizes on CPU.
    return jnp.max(jnp.max(jnp.abs(x), axis=tuple(range(x.ndim - 1)), initial=0), initial=0)
