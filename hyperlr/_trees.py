"""Trees of arrays: their floating-point leaves, which have derivatives, and their dtypes."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax

Tree = Any


def is_float(leaf: Any) -> bool:
    """Whether a leaf has a floating-point dtype, and so a derivative."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def floats_of(tree: Tree) -> Tree:
    """``tree`` with ``None`` in place of every leaf that is not floating-point."""
    return jax.tree.map(lambda x: x if is_float(x) else None, tree)


def with_floats(tree: Tree, floats: Tree) -> Tree:
    """``tree`` with its leaves taken from ``floats``, except where that is ``None``."""
    return jax.tree.map(
        lambda f, x: x if f is None else f, floats, tree, is_leaf=lambda f: f is None
    )


def restricted(tree: Tree, reference: Tree) -> Tree:
    """``tree`` with ``None`` where ``reference`` has it; elsewhere the two have one structure."""
    return jax.tree.map(
        lambda r, x: None if r is None else x, reference, tree, is_leaf=lambda r: r is None
    )


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


def cast(tree: Tree, dtype: Any) -> Tree:
    """``tree`` with its floating-point leaves in ``dtype``."""
    return jax.tree.map(lambda x: jnp.asarray(x).astype(dtype) if is_float(x) else x, tree)


def accumulation_dtype(tree: Tree) -> jnp.dtype:
    """The widest floating-point dtype in ``tree``, and at least float32."""
    dtypes = [jnp.result_type(x) for x in jax.tree.leaves(tree) if is_float(x)]
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(jnp.float32, *dtypes)


def without_float0(grads: Tree, params: Tree) -> Tree:
    """``grads`` with integer zeros where there are no gradients of integers.

    ``jax.grad(..., allow_int=True)`` returns float0 there, on which no arithmetic is defined, and
    Equinox returns ``None``.
    """

    def number(w: Any, g: Any) -> Any:
        absent = g is None and w is not None and not is_float(w)
        return jnp.zeros_like(w) if absent or getattr(g, "dtype", None) == jax.dtypes.float0 else g

    def is_none(node: Any) -> bool:
        return node is None

    leaves, structure = jax.tree.flatten(params, is_leaf=is_none)
    given: Any
    found, given = jax.tree.flatten(grads, is_leaf=is_none)
    if structure != given:
        return grads  # which is an error, and for the caller to say
    return jax.tree.unflatten(structure, [number(w, g) for w, g in zip(leaves, found, strict=True)])


def is_masked(node: Any) -> bool:
    """Whether a node stands for what ``optax.masked`` or ``optax.partition`` leaves out."""
    return isinstance(node, optax.MaskedNode)


def is_masked_tree(tree: Tree) -> bool:
    """Whether any part of ``tree`` is left out by a mask."""
    return any(map(is_masked, jax.tree.leaves(tree, is_leaf=is_masked)))


def fitted(tree: Tree, reference: Tree) -> Tree:
    """``tree``, which is like the whole parameters, as a wrapper shows them: like ``reference``.

    ``optax.masked`` and ``optax.partition`` mask gradients and parameters, ``optax.flatten`` makes
    one vector of them; extra arguments reach a transformation inside as they are.
    """
    structure: Any = jax.tree.structure(tree)
    if structure == jax.tree.structure(reference):
        return tree
    if is_masked_tree(reference):
        return jax.tree.map(
            lambda r, x: r if is_masked(r) else x, reference, tree, is_leaf=is_masked
        )
    if _is_flat(reference, tree):
        return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(tree)])
    return tree


def spread(part: Tree, params: Tree) -> Tree:
    """The inverse of :func:`fitted`: like ``params``, with ``None`` where ``part`` has nothing."""
    if _is_flat(part, params):
        leaves, structure = jax.tree.flatten(params)
        ends = itertools.accumulate((leaf.size for leaf in leaves), initial=0)
        pieces = [part[a:b] for a, b in itertools.pairwise(ends)]
        shaped = [x.reshape(leaf.shape) for x, leaf in zip(pieces, leaves, strict=True)]
        return jax.tree.unflatten(structure, shaped)

    def is_absent(node: Any) -> bool:
        return node is None or is_masked(node)

    return jax.tree.map(
        lambda x, w: jax.tree.map(lambda _: None, w) if is_absent(x) else x,
        part,
        params,
        is_leaf=is_absent,
    )


def _is_flat(vector: Tree, tree: Tree) -> bool:
    """Whether ``vector`` is one array with the entries of a ``tree`` that has another structure."""
    if not hasattr(vector, "ndim") or vector.ndim != 1 or hasattr(tree, "ndim"):
        return False
    return vector.size == sum(x.size for x in jax.tree.leaves(tree))
