"""A gradient with its derivatives along tangents, in each of the modes, and what is made of them.

What the methods ask for is in ``hyperlr._linearize``; here are the derivatives alone.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from hyperlr import _checks, _numbers, _trees
from hyperlr._state import PerName
from hyperlr._trees import Tree

HVP_MODES = ("forward_over_reverse", "reverse_over_reverse", "finite_difference")

# A function of the parameters that returns their gradient, and something that has no derivative.
Gradient = Callable[[Tree], tuple[Tree, Any]]


def derivatives(
    gradient: Gradient, params: Tree, tangents: list[Tree], hvp: str = "forward_over_reverse"
) -> tuple[Tree, Any, list[Tree]]:
    """``gradient(params)`` with its derivatives along ``tangents``, trees like ``params``.

    Where all tangents have ``None``, the parameter is held constant and costs nothing.
    """
    if not tangents:
        return *gradient(params), []
    first = tangents[0]
    point = _trees.restricted(params, first)
    directions = [_trees.cast_like(tangent, point) for tangent in tangents]

    def of_point(point: Tree) -> tuple[Tree, Any]:
        grads, aux = gradient(_trees.with_floats(params, point))
        return grads, aux

    if hvp == "finite_difference":
        grads, aux = of_point(point)

        def difference(vector: Tree) -> Tree:
            r = difference_step(point, vector)
            shifted, _ = of_point(_moved(point, r, vector))
            return jax.tree.map(lambda a, b: (a - b) / r.astype(a.dtype), shifted, grads)

        return grads, aux, [difference(vector) for vector in directions]
    if hvp == "reverse_over_reverse":
        grads, pullback, aux = jax.vjp(of_point, point, has_aux=True)
        # The derivative of any gradient, symmetric or not, as the transpose of its pullback.
        push = jax.linear_transpose(pullback, grads)
        return grads, aux, [push((vector,))[0] for vector in directions]
    with _remedy_for_custom_vjp():
        if len(directions) == 1:
            grads, product, aux = jax.jvp(of_point, (point,), tuple(directions), has_aux=True)
            return grads, aux, [product]
        grads, push, aux = jax.linearize(of_point, point, has_aux=True)
        return grads, aux, [push(vector) for vector in directions]


def mixed_derivatives(
    loss: Callable[..., jax.Array],
    params: Tree,
    of_loss: dict[str, jax.Array],
    names: tuple[str, ...],
) -> PerName:
    """∂²L/∂w∂η for hyperparameters η of the loss ``loss(params, of_loss)``, by their names."""

    def partial_derivative(floats: Tree, name: str) -> jax.Array:
        return jax.grad(loss, argnums=1)(_trees.with_floats(params, floats), of_loss)[name]

    def mixed(name: str) -> Tree:
        return jax.grad(partial_derivative)(floats, name)

    # In this order of the two derivatives, the network drops out of the weight of a penalty.
    floats = _trees.floats_of(params)
    return PerName((name, mixed(name)) for name in names)


def hessian_product(value_fn: Callable[[Tree], jax.Array], params: Tree, vector: Tree) -> Tree:
    """∇²L(w) v for a loss L = ``value_fn`` at w = ``params``, v like its floating-point leaves."""
    _, _, [product] = derivatives(gradient_of(value_fn, params), params, [vector])
    return product


def gradient_of(value_fn: Callable[[Tree], jax.Array], params: Tree) -> Gradient:
    """The gradient of a loss in the floating-point leaves of ``params``, in the form used here."""

    def loss(floats: Tree, params: Tree) -> jax.Array:
        value = value_fn(_trees.with_floats(params, floats))
        _checks.check_scalar_loss("value_fn", value)
        return value

    return lambda params: (jax.grad(loss)(_trees.floats_of(params), params), None)


@contextlib.contextmanager
def _remedy_for_custom_vjp() -> Iterator[None]:
    try:
        yield
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise TypeError(
            "the loss contains a custom_vjp function, which forward mode cannot differentiate: "
            'pass hvp="reverse_over_reverse" to the method, or, where there is no such choice, '
            "give the function a custom_jvp instead"
        ) from error


def _moved(point: Tree, r: jax.Array, vector: Tree) -> Tree:
    return jax.tree.map(
        lambda w, v: (w.astype(r.dtype) + r * v.astype(r.dtype)).astype(w.dtype), point, vector
    )


def difference_step(point: Tree, vector: Tree) -> jax.Array:
    """The r of a forward difference along ``vector``: ε^(1/3) (1 + ‖w‖) / ‖v‖, and 1 where v = 0.

    ε is the machine epsilon of the coarsest dtype. For a smooth loss √ε would balance rounding and
    the next Taylor term. But the gradient of a ReLU network jumps, and a short difference divides
    the jumps that it meets by little: in float32, √ε made tangents explode on the digits.
    """
    leaves = jax.tree.leaves(point)
    epsilon = max((float(jnp.finfo(jnp.result_type(x)).eps) for x in leaves), default=1.0)
    scale = epsilon ** (1 / 3) * (1.0 + _numbers.norm(point))
    # v = 0 has no direction; any finite r gives the right product, 0.
    return _numbers.ratio(scale, _numbers.norm(vector), otherwise=1.0)
