"""Roots whose derivative at 0 is 0, in place of those that an optimizer takes.

What is under such a root is 0 because it has been 0 so far: the average of the squared gradients of
a weight that nothing uses, or a norm of them. The slope is infinite there, and its product with a
tangent of 0 is NaN, which a sum over all weights then carries into every one of them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

Root = Callable[[jax.Array], jax.Array]


def with_flat_roots(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, of trees of arrays, with derivatives 0 of roots where they are 0 or NaN.

    Roots are √x, ∛x and x^p with a constant p between 0 and 1. Derivative rules of the function's
    own are left as they are. The function is called once for arguments of the same types, however
    often the result is; so it must not close over what is traced later than here.
    """
    programs: dict[Any, tuple[Callable[..., Any], Any]] = {}

    def flat(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        types = structure, tuple(map(jax.typeof, leaves))
        if types not in programs:
            program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
            programs[types] = jaxpr_as_fun(_flattened(program)), jax.tree.structure(shapes)
        run, result = programs[types]
        return jax.tree.unflatten(result, run(*leaves))

    return flat


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
    called = _call(root, equation.invars[0].aval)
    return called.replace(invars=equation.invars[:1], outvars=equation.outvars)


@functools.lru_cache
def _call(root: Root, aval: Any) -> Any:
    """The equation of a program that calls a flat root."""
    [called] = jax.make_jaxpr(root)(aval).eqns
    return called


def _flat_root(equation: Any) -> Root | None:
    """The flat root in place of an equation that takes one."""
    name = equation.primitive.name
    if name == "pow":
        exponent = getattr(equation.invars[1], "val", None)
        if exponent is not None and 0 < exponent < 1:
            return _flat_power(float(exponent))
    return _FLAT.get(name)


@functools.lru_cache
def _flat_power(exponent: float) -> Root:
    return _flat(lambda x: x**exponent, lambda y: exponent * y ** (1 / exponent - 1))


def _flat(power: Root, slope: Root) -> Root:
    """A root with another derivative: ``slope`` of 1 / root, and 0 where the root is 0 or NaN.

    The root is NaN of negative numbers, in the branch of a where that is not taken. The slope is
    one of the root alone, so that XLA need not keep x for it.
    """
    flat = jax.custom_jvp(power)

    @flat.defjvp
    def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
        root = flat(*primals)
        regular = jax.lax.select(jax.lax.abs(root) > 0, root, jnp.full_like(root, jnp.inf))
        return root, slope(1 / regular) * tangents[0]

    return flat


_FLAT = {
    "sqrt": _flat(jnp.sqrt, lambda y: 0.5 * y),
    "cbrt": _flat(jnp.cbrt, lambda y: y**2 / 3),
}
