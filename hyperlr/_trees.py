"""Trees of arrays: their floating-point leaves, which have derivatives, and their dtypes."""

from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def is_float(leaf: Any) -> bool:
    """Whether a leaf has a floating-point dtype, and so a derivative."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def floats_of(tree: Tree) -> Tree:
    """``tree`` with ``None`` in place of every leaf that is not floating-point."""
    return jax.tree.map(lambda x: x if is_float(x) else None, tree)


def with_floats(tree: Tree, floats: Tree) -> Tree:
    """``tree`` with its floating-point leaves taken from ``floats``."""
    return jax.tree.map(lambda x, f: x if f is None else f, tree, floats)


def cast_like(tree: Tree, reference: Tree) -> Tree:
    """``tree`` in the dtypes of ``reference``; floating-point leaves are not weak either.

    A float32 hyperparameter promotes whatever bfloat16 it multiplies, and the zero gradient of an
    integer leaf; the result is brought back here, once, so that the product itself is still formed
    in float32.
    """
    return jax.tree.map(
        lambda x, r: jnp.asarray(x).astype(jnp.result_type(r)) if is_float(r) or is_float(x) else x,
        tree,
        reference,
    )


def without_float0(grads: Tree, params: Tree) -> Tree:
    """``grads`` with integer zeros for what ``jax.grad(..., allow_int=True)`` returns for integers.

    That is float0, on which no arithmetic is defined.
    """

    def number(w: jax.Array, g: jax.Array) -> jax.Array:
        return jnp.zeros_like(w) if getattr(g, "dtype", None) == jax.dtypes.float0 else g

    return jax.tree.map(number, params, grads)


def accumulation_dtype(tree: Tree) -> jnp.dtype:
    """The widest floating-point dtype in ``tree``, and at least float32."""
    # Of dtypes, since a weakly typed leaf (jnp.full makes one) would give way to float32.
    dtypes = map(jnp.result_type, jax.tree.leaves(floats_of(tree)))
    with jax.numpy_dtype_promotion("standard"):  # the strict one knows no wider of two dtypes
        return jnp.result_type(jnp.float32, *dtypes)
