"""The derivative of the gradient along a tangent: products with the Hessian of the loss."""

import contextlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from hyperlr import _checks, _numbers, _trees
from hyperlr._trees import Tree

HVP_MODES = ("forward_over_reverse", "reverse_over_reverse", "finite_difference")


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
        value = value_fn(_trees.with_floats(params, floats))
        _checks.check_scalar_loss("value_fn", value)
        return value

    gradient, point = jax.grad(loss), _trees.floats_of(params)

    def difference(vector: Tree) -> Tree:
        r = difference_step(point, vector)
        shifted = jax.tree.map(lambda w, v: (w + r * v).astype(w.dtype), point, vector)
        return jax.tree.map(
            lambda moved, g: ((moved - g) / r).astype(g.dtype),
            gradient(shifted),
            _trees.floats_of(grads),
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
    length = _numbers.norm(vector)
    scale = epsilon ** (1 / 3) * (1.0 + _numbers.norm(point))
    # v = 0 has no direction; any finite r gives the right product, 0. Two wheres, because the
    # quotient must be finite in the branch that is not taken, too.
    return jnp.where(length > 0, scale / jnp.where(length > 0, length, 1.0), 1.0)
