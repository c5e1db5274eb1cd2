"""Checks of what is static: every error names the argument and says what to pass instead."""

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax


def is_traced(value: Any) -> bool:
    """Whether ``value`` is abstract, so that no Python branch may depend on it."""
    return isinstance(value, jax.core.Tracer)


def is_zero(value: Any) -> bool:
    """Whether ``value`` is known to be 0 while the program is being built."""
    return not is_traced(value) and float(value) == 0.0


def check_float_scalar(
    name: str, value: Any, lower: float = -math.inf, upper: float = math.inf
) -> None:
    """Raises unless ``value`` is one real number, and if not traced, within [lower, upper]."""
    remedy = f"pass a number or a floating-point array of shape (), for example {name}=0.01"
    if callable(value):
        raise TypeError(
            f"{name} must be a number, got the function {value!r}. For a schedule, pass "
            "hyperlr.scheduled(inner, schedule) for inner, and a factor of the schedule, such as "
            f"{name}=1.0, is learned; or leave it to inner: lambda {name}: optax.chain(...)"
        )
    is_number = isinstance(value, int | float) or hasattr(value, "dtype")
    is_number = is_number and not isinstance(value, bool)
    is_real = is_number and jnp.issubdtype(jnp.result_type(value), jnp.number)
    if not is_real or jnp.issubdtype(jnp.result_type(value), jnp.complexfloating):
        raise TypeError(f"{name} must be a real scalar, got {value!r}: {remedy}")
    if jnp.shape(value) != ():
        raise TypeError(f"{name} must be a scalar, got shape {jnp.shape(value)}: {remedy}")
    if not is_traced(value) and not lower <= float(value) <= upper:
        raise ValueError(f"{name} must lie in [{lower}, {upper}], got {float(value)}")


def check_fraction(name: str, value: Any) -> None:
    """Raises unless ``value`` is a number in (0, 1] that is known while the program is built."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a Python number in (0, 1], got {value!r}")
    if not 0 < value <= 1:
        raise ValueError(f"{name} must lie in (0, 1], got {value}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises unless ``value`` is a Python integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a Python integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_transformation(name: str, value: Any) -> None:
    """Raises unless ``value`` is an optax transformation."""
    if not isinstance(value, optax.GradientTransformation):
        raise TypeError(
            f"{name} must be an optax transformation, such as optax.sgd(0.01), got {value!r}"
        )


def required_value_fn(value_fn: Callable[..., Any] | None) -> Callable[..., Any]:
    """``value_fn``, or an error where it is missing."""
    if not callable(value_fn):
        raise ValueError(
            "value_fn is missing: call update(grads, state, params, **extra) with what "
            "hyperlr.value_and_grad returned, or update(..., value_fn=loss), where "
            "loss(params) is the scalar loss on the minibatch that grads were computed on. If you "
            "did, a wrapper around the method does not hand extra arguments on (optax.lookahead "
            "and a few others do not): put it inside, into the factory inner, or use hyperlr.hd "
            f"there, which needs none; got {value_fn!r}"
        )
    return value_fn


def check_scalar_loss(name: str, value: Any) -> None:
    """Raises unless ``value``, returned by the function ``name``, is one number."""
    if not hasattr(value, "shape") or value.shape != ():
        raise TypeError(
            f"{name} must return a scalar, the loss alone, got "
            f"{jax.tree.map(jnp.shape, value)} (shapes): take a mean, and leave out auxiliary "
            f"values, for example {name}=lambda params: loss(params, batch)[0]"
        )


def check_names(name: str, names: Collection[str], hyperparams: Mapping[str, Any]) -> None:
    """Raises unless ``names`` is a collection of keys of ``hyperparams``."""
    if isinstance(names, str):
        raise TypeError(f"{name} must be a collection of names, got {names!r}: pass ({names!r},)")
    for key in names:
        if key not in hyperparams:
            raise ValueError(
                f"{name} has {key!r}, which is not in hyperparams {sorted(hyperparams)}"
            )


def check_inner(inner: Callable, names: Collection[str]) -> None:
    """Raises unless ``inner`` can be called with keyword arguments of these names."""
    if isinstance(inner, optax.GradientTransformation) or not callable(inner):
        raise TypeError(
            "inner must be a factory that takes the hyperparameters and returns an optax "
            f"transformation, such as optax.sgd, got {type(inner).__name__}: pass optax.sgd "
            "rather than optax.sgd(0.01)"
        )
    signature = inspect.signature(inner)
    try:
        signature.bind(**dict.fromkeys(names))
    except TypeError as error:
        raise TypeError(
            f"inner cannot be called with hyperparams {sorted(names)}: {error}. Its "
            f"signature is {signature}; bind its other arguments with functools.partial, and "
            "name in hyperparams only what it takes"
        ) from error


def check_bounds(bounds: Mapping[str, tuple[float, float]], hyperparams: Mapping[str, Any]) -> None:
    """Raises unless every bound is a (lower, upper) pair around a known hyperparameter."""
    check_names("bounds", bounds, hyperparams)
    for name, pair in bounds.items():
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise TypeError(f"bounds[{name!r}] must be a pair (lower, upper), got {pair!r}")
        lower, upper = pair
        if not is_traced(lower) and not is_traced(upper) and not lower < upper:
            raise ValueError(f"bounds[{name!r}] must have lower < upper, got {pair!r}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_real(params: Any) -> None:
    """Raises if a leaf is complex: its derivatives would silently be left out."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} is complex; hyperlr differentiates real "
                "parameters only: train its real and its imaginary part, two real arrays, and put "
                "them together in the loss, w = real + 1j * imag"
            )


def check_differentiable(params: Any) -> None:
    """Raises if a leaf is not floating-point, so that no loss has a gradient in it."""
    check_real(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} has dtype {jnp.result_type(leaf)}, and no "
                "gradient: pass floating-point leaves alone, and let loss_fn and objective_fn "
                "close over the others"
            )


def check_same_tree(name: str, tree: Any, reference_name: str, reference: Any) -> None:
    """Raises unless two trees agree in structure and in the shapes of their leaves."""
    structure: Any = jax.tree.structure(tree)
    expected: Any = jax.tree.structure(reference)
    if structure != expected:
        raise ValueError(
            f"{name} must have the tree structure of {reference_name}, {expected}, got {structure}"
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(reference), strict=True)
    for (path, leaf), other in pairs:
        if jnp.shape(leaf) != jnp.shape(other):
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, but in "
                f"{reference_name} the shape is {jnp.shape(other)}"
            )
