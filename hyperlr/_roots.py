"""Roots whose derivative at 0 is 0, in place of those that an optimizer takes.

What is under such a root is 0 because it has been 0 so far: the average of the squared gradients of
a weight that nothing uses, or a norm of them. The slope is infinite there, and its product with a
tangent of 0 is NaN, which a sum over all weights then carries into every one of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from hyperlr import _numbers

Root = Callable[[jax.Array], jax.Array]


def with_flat_roots(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, of trees of arrays, with derivatives 0 of roots where they are 0 or NaN.

    Roots are √x, ∛x and x^p with a constant p between 0 and 1. Derivative rules of the function's
    own are left as they are.
    """
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    outputs = jaxpr_as_fun(_flattened(program))(*jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shapes), outputs)


def _flattened(value: Any) -> Any:
    """A program with flat roots in place of its roots; of what else an equation has, itself."""
    if isinstance(value, ClosedJaxpr):
        return value.replace(jaxpr=_flattened(value.jaxpr))
    if isinstance(value, Jaxpr):
        return value.replace(eqns=[_flattened_equation(equation) for equation in value.eqns])
    return tuple(map(_flattened, value)) if type(value) is tuple else value


def _flattened_equation(equation: Any) -> Any:
    root = _flat_root(equation)
    if root is None:
        params = {name: _flattened(value) for name, value in equation.params.items()}
        return equation.replace(params=params)
    [called] = jax.make_jaxpr(root)(equation.invars[0].aval).eqns
    return called.replace(invars=equation.invars[:1], outvars=equation.outvars)


def _flat_root(equation: Any) -> Root | None:
    """The flat root in place of an equation that takes one."""
    name = equation.primitive.name
    if name == "pow":
        exponent = getattr(equation.invars[1], "val", None)
        if exponent is not None and 0 < exponent < 1:
            return _flat(lambda x: x ** float(exponent), float(exponent))
    return _FLAT.get(name)


def _flat(power: Root, exponent: float) -> Root:
    flat = jax.custom_jvp(power)

    @flat.defjvp
    def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
        [x], [x_dot] = primals, tangents
        root = flat(x)
        # Nor has it a slope where x is negative, which is the branch of a where not taken.
        regular = jnp.where(jnp.abs(root) > 0, x, 0.0)
        return root, exponent * _numbers.ratio(root, regular) * x_dot

    return flat


_FLAT = {"sqrt": _flat(jnp.sqrt, 1 / 2), "cbrt": _flat(jnp.cbrt, 1 / 3)}
