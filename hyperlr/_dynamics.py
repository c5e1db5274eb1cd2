"""The inner step Φ, a function of parameters, optimizer state and hyperparameters, differentiated.

One step of training maps (w, s, η) to Φ(w, s, η) = (w + u, s′), where u and s′ come from the inner
optimizer's ``update``. Its derivatives are A = ∂Φ/∂(w, s), of which only products with tangents are
ever formed, and B = ∂Φ/∂η, one tangent for each hyperparameter ([P] Eq. 3).

Only floating-point leaves have derivatives. Everything here that stands for a derivative has
``None`` in place of the other leaves (step counts, random keys).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperlr import _checks

Tree = Any
Hyperparams = dict[str, jax.Array]

HVP_MODES = ("forward_over_reverse", "reverse_over_reverse", "finite_difference")


class Tangent(NamedTuple):
    """Derivative of parameters and optimizer state with respect to one hyperparameter.

    Attributes:
      params: like the parameters, in their shapes and dtypes.
      inner_state: like the inner optimizer's state; ``None`` where only ``params`` is needed.
    """

    params: Tree
    inner_state: Tree


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


def saturated(x: jax.Array) -> jax.Array:
    """``x`` with the largest finite number in place of ∞, so that 0 · x is 0; NaN stays."""
    return _clamped(x, float(jnp.finfo(x.dtype).max))


def summable(tree: Tree) -> Tree:
    """``tree`` with its entries held within ±√(max / 2n), of n floating-point entries in all.

    max is the largest number of the dtype of accumulation. No inner product of two such trees
    overflows, so none is ∞ − ∞; nor do many linear maps of one. NaN stays.
    """
    num_entries = sum(x.size for x in jax.tree.leaves(tree))
    largest = float(jnp.finfo(accumulation_dtype(tree)).max) / (2 * max(num_entries, 1))
    return jax.tree.map(
        lambda x: _clamped(x, min(largest**0.5, float(jnp.finfo(x.dtype).max))), tree
    )


def _clamped(x: jax.Array, largest: float) -> jax.Array:
    """``x`` within ±largest, in a single operation an entry."""
    return jax.lax.clamp(jnp.array(-largest, x.dtype), x, jnp.array(largest, x.dtype))


def accumulation_dtype(tree: Tree) -> jnp.dtype:
    """The widest floating-point dtype in ``tree``, and at least float32."""
    return jnp.result_type(jnp.float32, *jax.tree.leaves(floats_of(tree)))


def inner_product(x: Tree, y: Tree) -> jax.Array:
    """⟨x, y⟩ over two trees, accumulated in at least float32."""
    dtype = accumulation_dtype((x, y))
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


def inner_step(
    inner: Callable[..., optax.GradientTransformation],
    extra_args: Mapping[str, Any],
    hyperparams: Hyperparams,
    grads: Tree,
    inner_state: Tree,
    params: Tree,
) -> tuple[Tree, Tree]:
    """The update u in the dtypes of ``grads``, and s′ in the dtypes of ``inner_state``."""
    transformation = optax.with_extra_args_support(inner(**hyperparams))
    updates, new_state = transformation.update(grads, inner_state, params, **extra_args)
    return cast_like(updates, grads), cast_like(new_state, inner_state)


def direct_tangents(
    step: Callable[[Hyperparams], tuple[Tree, Tree]], hyperparams: Hyperparams
) -> tuple[tuple[Tree, Tree], dict[str, Tangent]]:
    """The inner step's (u, s′), and B = ∂Φ/∂η for every hyperparameter η of the optimizer.

    ``step`` is a function of the hyperparameters alone. Were the gradients given a tangent too,
    even a zero one, a √v at v = 0 inside the optimizer would make it 0 · ∞.
    """

    def differentiable(hyperparams: Hyperparams) -> tuple[Tangent, tuple[Tree, Tree]]:
        result = step(hyperparams)
        return Tangent(*map(floats_of, result)), result

    _, push, result = jax.linearize(differentiable, hyperparams, has_aux=True)
    directions = {
        name: {other: jnp.full_like(value, other == name) for other, value in hyperparams.items()}
        for name in hyperparams
    }
    return result, {name: push(direction) for name, direction in directions.items()}


def loss_tangents(
    step: Callable[[Tree], tuple[Tree, Tree]],
    grads: Tree,
    value_fn: Callable[[Tree, Hyperparams], jax.Array],
    params: Tree,
    hyperparams: Hyperparams,
) -> dict[str, Tangent]:
    """B for hyperparameters of the loss, which act through the gradients: ∂Φ/∂g ∂²L/∂w∂η.

    ``step`` is a function of the gradients alone.
    """

    def differentiable(floats: Tree) -> Tangent:
        return Tangent(*map(floats_of, step(with_floats(grads, floats))))

    def partial_derivative(floats: Tree, name: str) -> jax.Array:
        return jax.grad(value_fn, argnums=1)(with_floats(params, floats), hyperparams)[name]

    # In this order of the two derivatives, the network drops out of the weight of a penalty.
    mixed = {name: jax.grad(partial_derivative)(floats_of(params), name) for name in hyperparams}
    _, push = jax.linearize(differentiable, floats_of(grads))
    return {name: push(cast_like(grads_dot, floats_of(grads))) for name, grads_dot in mixed.items()}


def propagated_tangents(
    step: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]],
    grads: Tree,
    inner_state: Tree,
    params: Tree,
    tangents: dict[str, Tangent],
    hessian_product: Callable[[Tree], Tree],
) -> dict[str, Tangent]:
    """A Z for every tangent Z: a Hessian-vector product, then the linearized inner step.

    ``step`` is a function of gradients, inner state and parameters; ``hessian_product`` maps the
    parameters' part of Z to the tangent of the gradients. Both are linearized once for all
    tangents, which then go one by one: stacked and vmapped they take more time and memory (1.6
    times and 4 times for three tangents of a 784-500-500-500-10 network on CPU), because copying
    a stack of parameters costs more than a batched matmul saves.
    """
    at = (grads, inner_state, params)

    def differentiable(*floats: Tree) -> Tangent:
        return Tangent(*map(floats_of, step(*map(with_floats, at, floats))))

    _, push = jax.linearize(differentiable, *map(floats_of, at))

    def propagate(tangent: Tangent) -> Tangent:
        grads_dot = cast_like(hessian_product(tangent.params), floats_of(grads))
        stepped = push(grads_dot, tangent.inner_state, tangent.params)
        # Φ adds the update to the parameters, so their own tangent passes through.
        moved = jax.tree.map(jnp.add, tangent.params, stepped.params)
        return Tangent(cast_like(moved, tangent.params), stepped.inner_state)

    return {name: propagate(tangent) for name, tangent in tangents.items()}


def hessian_product(
    value_fn: Callable[[Tree], jax.Array],
    params: Tree,
    *,
    grads: Tree = None,
    mode: str = "forward_over_reverse",
) -> Callable[[Tree], Tree]:
    """The linear map v ↦ ∇²L(w) v, on trees like the floating-point leaves of ``params``.

    The gradient that is evaluated on the way is the one that the caller has already computed;
    inside one ``jit`` XLA merges the two.

    Args:
      value_fn: the loss L, a scalar function of the parameters.
      params: the point w.
      grads: ∇L(w); needed by "finite_difference" alone.
      mode: "forward_over_reverse"; "reverse_over_reverse", for losses that forward mode refuses;
        or "finite_difference", (∇L(w + r v) − ∇L(w)) / r, see :func:`difference_step`.

    Raises:
      TypeError: the loss is not a scalar; or it has a ``custom_vjp`` and the mode is
        "forward_over_reverse".
    """

    def loss(floats: Tree) -> jax.Array:
        value = value_fn(with_floats(params, floats))
        _checks.check_scalar_loss("value_fn", value)
        return value

    gradient, point = jax.grad(loss), floats_of(params)

    def difference(vector: Tree) -> Tree:
        r = difference_step(point, vector)
        shifted = jax.tree.map(lambda w, v: (w + r * v).astype(w.dtype), point, vector)
        return jax.tree.map(
            lambda moved, g: ((moved - g) / r).astype(g.dtype), gradient(shifted), floats_of(grads)
        )

    if mode == "finite_difference":
        return difference
    if mode == "reverse_over_reverse":
        _, pullback = jax.vjp(gradient, point)
        return lambda vector: pullback(vector)[0]  # the Hessian is its own transpose
    with _remedy_for_custom_vjp():
        _, pushforward = jax.linearize(gradient, point)

    def product(vector: Tree) -> Tree:
        with _remedy_for_custom_vjp():  # which JAX may find out only here
            return pushforward(vector)

    return product


@contextlib.contextmanager
def _remedy_for_custom_vjp() -> Iterator[None]:
    try:
        yield
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise TypeError(
            "value_fn contains a custom_vjp function, which forward mode cannot differentiate: "
            'pass hvp="reverse_over_reverse" to hyperlr.online, or, where there is no such choice, '
            "give the function a custom_jvp instead"
        ) from error


def difference_step(point: Tree, vector: Tree) -> jax.Array:
    """The r of a forward difference along ``vector``: ε^(1/3) (1 + ‖w‖) / ‖v‖, and 1 where v = 0.

    ε is the machine epsilon of the coarsest dtype. For a smooth loss √ε would balance rounding and
    the next Taylor term. But the gradient of a ReLU network jumps, and a short difference divides
    the jumps that it meets by little: in float32, √ε made tangents explode on the digits.
    """
    leaves = jax.tree.leaves(point)
    epsilon = max((float(jnp.finfo(jnp.result_type(x)).eps) for x in leaves), default=1.0)
    length = norm(vector)
    scale = epsilon ** (1 / 3) * (1.0 + norm(point))
    # v = 0 has no direction; any finite r gives the right product, 0. Two wheres, because the
    # quotient must be finite in the branch that is not taken, too.
    return jnp.where(length > 0, scale / jnp.where(length > 0, length, 1.0), 1.0)
