"""The optimizers compared on a dense and a sparse feature, and their effective rates."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from hyperlr import optimizers
from hyperlr.experiments.core import style


class Optimizer(NamedTuple):
    """An optimizer of the comparison."""

    label: str
    learning_rate: float
    """η_0."""
    make: Callable[[Any], optax.GradientTransformation]
    """Builds the optimizer from η_0."""
    rates: Callable[[Any, Any, Any, Any], Any]
    """Effective rates [2], from η_0, the states before and after the update, and the inputs: what
    multiplies the gradient, or where there is one, the (corrected) average of gradients."""
    color: str = style.GREY

    @property
    def drawn(self) -> dict[str, Any]:
        """How its lines are drawn."""
        return {"color": self.color, "label": self.label}


def _constant_rate(rate: Any, before: Any, after: Any, inputs: Any) -> Any:
    return jnp.full(2, rate)


def _over_root_of(name: str) -> Callable[..., Any]:
    """Of an optimizer that divides by the root of this entry of its state."""
    return lambda rate, before, after, inputs: rate / jnp.sqrt(optax.tree.get(after, name) + 1e-16)


def adadelta(eps: float) -> Optimizer:
    """AdaDelta; its η_0 is 1, which is no choice but the published algorithm."""

    def rates(rate: Any, before: Any, after: Any, inputs: Any) -> Any:
        past_updates, gradients = optax.tree.get(before, "e_x"), optax.tree.get(after, "e_g")
        return rate * jnp.sqrt(past_updates + eps) / jnp.sqrt(gradients + eps)

    make = functools.partial(optimizers.adadelta, eps=eps)
    return Optimizer("AdaDelta", 1.0, make, rates, style.GREEN)


def adam_like(
    label: str,
    make: Callable[..., optax.GradientTransformation],
    b2: float = 0.999,
    color: str = style.GREY,
) -> Optimizer:
    """Adam or a variant of it whose state has Adam's v, at η_0 = 0.1."""

    def rates(rate: Any, before: Any, after: Any, inputs: Any) -> Any:
        corrected = optax.tree.get(after, "nu") / (1 - b2 ** optax.tree.get(after, "count"))
        return jnp.broadcast_to(rate / jnp.sqrt(corrected + 1e-16), (2,))

    return Optimizer(label, 0.1, functools.partial(make, b2=b2), rates, color)


# fmt: off
OPTIMIZERS = {
    "gd": Optimizer("GD", 0.3, optax.sgd, _constant_rate, style.DARK),
    "gd_sparsity": Optimizer(
        "GD, sparsity-scaled", 0.3,
        lambda rate: optax.chain(optimizers.scale_by_sparsity(), optax.sgd(rate)),
        lambda rate, before, after, inputs: rate * optimizers.sparsity_factor(inputs),
        style.PURPLE),
    "momentum": Optimizer(
        "momentum", 0.1, functools.partial(optax.sgd, momentum=0.9), _constant_rate),
    "adagrad": Optimizer(
        "AdaGrad", 0.3, optimizers.adagrad, _over_root_of("sum_of_squares"), style.YELLOW),
    "rmsprop": Optimizer("RMSprop", 0.1, optimizers.rmsprop, _over_root_of("nu"), style.RED),
    "adadelta": adadelta(1e-4),
    "adam": adam_like("Adam", optimizers.adam, color=style.BLUE),
    "adamax": Optimizer(
        "AdaMax", 0.1, optimizers.adamax,
        lambda rate, before, after, inputs: rate / optax.tree.get(after, "nu")),
    "adam_max": adam_like("Adam Max", optimizers.adam_max, color=style.CYAN),
    "nadam": adam_like("NAdam", optimizers.nadam),
}
# fmt: on


def _uncorrected_adam(learning_rate: Any) -> optax.GradientTransformation:
    """Adam whose averages are not corrected for starting at zero."""
    init = optimizers.scale_by_adam().init

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        mu = optax.tree.update_moment(updates, optax.tree.get(state, "mu"), 0.9, 1)
        nu = optax.tree.update_moment(updates, optax.tree.get(state, "nu"), 0.999, 2)
        return -learning_rate * mu / jnp.sqrt(nu + 1e-16), optax.tree.set(state, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


UNCORRECTED_ADAM = Optimizer("Adam, uncorrected", 0.1, _uncorrected_adam, _over_root_of("nu"))
