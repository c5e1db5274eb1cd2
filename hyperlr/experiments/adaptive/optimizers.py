"""The optimizers compared on a dense and a sparse feature, and their effective rates."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperlr import optimizers
from hyperlr.experiments.core import style


class Optimizer(NamedTuple):
    """An optimizer of the comparison."""

    label: str
    """Name in figures and tables."""
    learning_rate: float
    """η_0."""
    make: Callable[[Any], optax.GradientTransformation]
    """Builds the optimizer from η_0."""
    rates: Callable[[Any, Any, Any, jax.Array], Any]
    """Effective rates [2], from η_0, the states before and after the update, and the inputs: what
    multiplies the gradient, or where there is one, the (corrected) average of gradients."""
    color: str = style.GREY


def _constant_rate(learning_rate: Any, before: Any, after: Any, inputs: jax.Array) -> Any:
    del before, after, inputs
    return jnp.full(2, learning_rate)


def _sparsity_rate(learning_rate: Any, before: Any, after: Any, inputs: jax.Array) -> Any:
    del before, after
    return learning_rate * optimizers.sparsity_factor(inputs)


def _adagrad_rate(learning_rate: Any, before: Any, after: Any, inputs: jax.Array) -> Any:
    del before, inputs
    return learning_rate / jnp.sqrt(optax.tree.get(after, "sum_of_squares") + 1e-16)


def _rmsprop_rate(learning_rate: Any, before: Any, after: Any, inputs: jax.Array) -> Any:
    del before, inputs
    return learning_rate / jnp.sqrt(optax.tree.get(after, "nu") + 1e-16)


def _adadelta_rate(
    eps: float, learning_rate: Any, before: Any, after: Any, inputs: jax.Array
) -> Any:
    del inputs
    past_updates, gradients = optax.tree.get(before, "e_x"), optax.tree.get(after, "e_g")
    return learning_rate * jnp.sqrt(past_updates + eps) / jnp.sqrt(gradients + eps)


def _adam_rate(b2: float, learning_rate: Any, before: Any, after: Any, inputs: jax.Array) -> Any:
    del before, inputs
    corrected = optax.tree.get(after, "nu") / (1 - b2 ** optax.tree.get(after, "count"))
    return jnp.broadcast_to(learning_rate / jnp.sqrt(corrected + 1e-16), (2,))


def _adamax_rate(learning_rate: Any, before: Any, after: Any, inputs: jax.Array) -> Any:
    del before, inputs
    return learning_rate / optax.tree.get(after, "nu")


def _momentum(learning_rate: Any) -> optax.GradientTransformation:
    return optax.sgd(learning_rate, momentum=0.9)


def _sparsity_sgd(learning_rate: Any) -> optax.GradientTransformation:
    return optax.chain(optimizers.scale_by_sparsity(), optax.sgd(learning_rate))


def adadelta(eps: float) -> Optimizer:
    """AdaDelta; its η_0 is 1, which is no choice but the published algorithm."""
    make = functools.partial(optimizers.adadelta, eps=eps)
    rates = functools.partial(_adadelta_rate, eps)
    return Optimizer("AdaDelta", 1.0, make, rates, style.GREEN)


def adam_like(
    label: str,
    make: Callable[..., optax.GradientTransformation],
    b2: float = 0.999,
    color: str = style.GREY,
) -> Optimizer:
    """Adam or a variant of it whose state has Adam's v, at η_0 = 0.1."""
    return Optimizer(
        label, 0.1, functools.partial(make, b2=b2), functools.partial(_adam_rate, b2), color
    )


OPTIMIZERS = {
    "gd": Optimizer("GD", 0.3, optax.sgd, _constant_rate, style.DARK),
    "gd_sparsity": Optimizer(
        "GD, sparsity-scaled", 0.3, _sparsity_sgd, _sparsity_rate, style.PURPLE
    ),
    "momentum": Optimizer("momentum", 0.1, _momentum, _constant_rate),
    "adagrad": Optimizer("AdaGrad", 0.3, optimizers.adagrad, _adagrad_rate, style.YELLOW),
    "rmsprop": Optimizer("RMSprop", 0.1, optimizers.rmsprop, _rmsprop_rate, style.RED),
    "adadelta": adadelta(1e-4),
    "adam": adam_like("Adam", optimizers.adam, color=style.BLUE),
    "adamax": Optimizer("AdaMax", 0.1, optimizers.adamax, _adamax_rate),
    "adam_max": adam_like("Adam Max", optimizers.adam_max, color=style.CYAN),
    "nadam": adam_like("NAdam", optimizers.nadam),
}


def _uncorrected_adam(learning_rate: Any) -> optax.GradientTransformation:
    """Adam whose averages are not corrected for starting at zero."""
    init = optimizers.scale_by_adam().init

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        mu = optax.tree.update_moment(updates, optax.tree.get(state, "mu"), 0.9, 1)
        nu = optax.tree.update_moment(updates, optax.tree.get(state, "nu"), 0.999, 2)
        return -learning_rate * mu / jnp.sqrt(nu + 1e-16), optax.tree.set(state, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


UNCORRECTED_ADAM = Optimizer("Adam, uncorrected", 0.1, _uncorrected_adam, _rmsprop_rate)
