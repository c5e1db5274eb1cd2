"""Numbers made from trees, in at least float32: inner products and norms, kept finite."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


class Pair(NamedTuple):
    """Two trees with the same structure, of which the inner product is asked for."""

    x: Tree
    y: Tree


def inner_product(x: Tree, y: Tree) -> jax.Array:
    """⟨x, y⟩ over two trees, accumulated in at least float32."""
    return inner_products(Pair(x, y))


def inner_products(pairs: Tree) -> Any:
    """⟨x, y⟩ for each :class:`Pair` in a tree of them, accumulated in at least float32.

    All pairs are over arrays of the same shapes; the products of short ones are summed together.
    """
    found, structure = jax.tree.flatten(pairs, is_leaf=lambda node: isinstance(node, Pair))
    dtype = _trees.accumulation_dtype(found)

    def products(pair: Pair) -> list[jax.Array]:
        leaves = zip(jax.tree.leaves(pair.x), jax.tree.leaves(pair.y), strict=True)
        # Not jnp.vdot: flattening a sharded array would gather it first. Nor are small arrays put
        # together, as below: XLA would divide activations in another way for that.
        return [a.astype(dtype) * b.astype(dtype) for a, b in leaves]

    parts = [_sums(arrays) for arrays in zip(*map(products, found), strict=True)]
    if not parts:
        return jax.tree.unflatten(structure, [jnp.zeros((), dtype)] * len(found))
    return jax.tree.unflatten(structure, _sums([jnp.stack(x) for x in zip(*parts, strict=True)]))


def _sums(arrays: Sequence[jax.Array]) -> Sequence[jax.Array]:
    """The sums over several arrays of one shape."""
    first = arrays[0]
    is_short = first.ndim > 0 and first.size <= _SHORT
    # Of an array in parts on several devices, XLA would gather the sums of the parts.
    if len(arrays) == 1 or not is_short or jax.device_count() > 1:
        return [jnp.sum(x) for x in arrays]
    return _reduced(arrays, jax.lax.add, lambda _: 0, range(first.ndim))


# On a CPU, XLA compiles three functions for one sum, and one for several together. That adds number
# by number, which with so few takes less time than there is to be seen.
_SHORT = 2**12


def computed_once(tree: Tree) -> Tree:
    """A tree as it is, whose scalars are to be computed once, and all together.

    On a CPU, XLA puts cheap scalars into the function of each array that they meet, and of each
    scalar that is made of them, with all that they come from: sums over all arrays, for each array.
    """
    if not any(jnp.ndim(x) == 0 for x in jax.tree.leaves(tree)):
        return tree
    return jax.lax.platform_dependent(tree, cpu=_through_a_reduction, default=lambda tree: tree)


def _through_a_reduction(tree: Tree) -> Tree:
    """The larger one of each scalar and itself.

    Of what there is, only a reduction of several arrays at once keeps XLA from computing scalars
    again: barriers are gone when it puts functions together.
    """
    leaves, structure = jax.tree.flatten(tree)
    scalars = [x for x in leaves if jnp.ndim(x) == 0]
    # XLA allows of one floating-point dtype in one reduction.
    wide = _trees.cast(scalars, _trees.accumulation_dtype(scalars))
    once = iter(_reduced([jnp.stack([x, x]) for x in wide], jax.lax.max, _lowest, (0,)))
    found = [x if jnp.ndim(x) else next(once).astype(x.dtype) for x in leaves]
    return jax.tree.unflatten(structure, found)


def _lowest(dtype: jnp.dtype) -> Any:
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.iinfo(dtype).min
    return False if jnp.issubdtype(dtype, jnp.bool_) else -jnp.inf


def _reduced(
    arrays: Sequence[jax.Array],
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    neutral: Callable[[jnp.dtype], Any],
    axes: Sequence[int],
) -> Sequence[jax.Array]:
    """Several arrays of one shape, each reduced over ``axes``, in one passage."""
    initial = [jnp.full_like(x, neutral(x.dtype), shape=()) for x in arrays]

    def combined(x: Sequence[jax.Array], y: Sequence[jax.Array]) -> list[jax.Array]:
        return [combine(a, b) for a, b in zip(x, y, strict=True)]

    return jax.lax.reduce(list(arrays), initial, combined, tuple(axes))


def root(squared: jax.Array) -> jax.Array:
    """The root of a norm's square; its derivative at 0 is 0."""
    # Two wheres, as in `ratio`: the root has no derivative at 0. Compared with 0 for equality,
    # since the norm of NaN must not come out as 0.
    zero = squared == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)))


def norm(tree: Tree) -> jax.Array:
    """‖x‖ over a tree, accumulated in at least float32; its derivative at 0 is 0."""
    return root(inner_product(tree, tree))


def finite(x: jax.Array, otherwise: jax.Array) -> jax.Array:
    """``x``, and ``otherwise`` in those of its entries that are not finite."""
    # Not jnp.where and jnp.isfinite: each is a function of its own in the program, for each array.
    return jax.lax.select(jax.lax.is_finite(x), x, otherwise)


# Smaller arrays are put together before something is found out about all of them: to compile a
# reduction takes longer than to copy so many numbers in thousands of steps.
_SMALL = 2**16


def all_finite(tree: Tree) -> jax.Array:
    """Whether all real or complex numbers of a tree are finite."""
    # Several times faster on CPU than the conjunction of isfinite; NaN wins every maximum.
    largest = [jnp.isfinite(jnp.max(jnp.abs(x), initial=0)) for x in _arrays(tree)]
    return functools.reduce(jnp.logical_and, largest, jnp.ones((), bool))


def has_finite_norm(tree: Tree) -> jax.Array:
    """Whether the squares of all numbers of a tree have a finite sum, in at least float32."""
    dtype = _trees.accumulation_dtype(tree)

    def squared(x: jax.Array) -> jax.Array:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return jnp.sum(jnp.real(x * jnp.conj(x))).astype(dtype)

    return jnp.isfinite(sum(map(squared, _arrays(tree)), start=jnp.zeros((), dtype)))


def _arrays(tree: Tree) -> list[jax.Array]:
    """The leaves that are real or complex numbers, with small ones in few arrays."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    small: dict[Any, list[jax.Array]] = {}
    large = []
    for x in leaves:
        if x.size <= _SMALL and not _is_divided(x):
            small.setdefault(x.dtype, []).append(jnp.ravel(x))
        else:
            large.append(x)
    return large + [jnp.concatenate(x) for x in small.values()]


def _is_divided(x: jax.Array) -> bool:
    """Whether an array lies in parts on several devices, as far as its type tells.

    It does where the axes of the mesh are explicit; to put such arrays together is an error.
    """
    return any(axis is not None for axis in jax.typeof(x).sharding.spec)
