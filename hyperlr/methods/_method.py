"""What an online method was built with, checked: every error says what to pass instead."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperlr import _checks, _derivatives
from hyperlr._inner_step import Hyperparams
from hyperlr._state import Settings
from hyperlr.methods._average import Evaluated

# Keys of hyperlr.metrics, which would hide a hyperparameter of the same name.
_RESERVED = (
    "discount",
    "horizon",
    "hyper_learning_rate",
    "hypergradient",
    "num_explosions",
    "num_restarts",
    "num_rollbacks",
)


class Method(NamedTuple):
    """The arguments of :func:`hyperlr.online`, checked."""

    inner: Callable[..., optax.GradientTransformation]
    inner_names: tuple[str, ...]
    discount: float | jax.Array | Callable[[jax.Array], jax.Array] | None
    rule: optax.GradientTransformation
    bounds: Mapping[str, tuple[float, float]]
    average: float | jax.Array | Evaluated | None
    relative: bool
    max_tangent: float | jax.Array | None
    tangent_dtype: Any
    settings: Settings

    def of_inner(self, hyperparams: Hyperparams) -> Hyperparams:
        """Those of the hyperparameters that are the inner optimizer's, and not the loss's."""
        return {name: hyperparams[name] for name in self.inner_names}


def checked(
    inner: Callable[..., optax.GradientTransformation],
    hyperparams: Mapping[str, float | jax.Array],
    discount: float | jax.Array | Callable[[jax.Array], jax.Array] | None,
    hyper_optimizer: optax.GradientTransformation,
    bounds: Mapping[str, tuple[float, float]] | None,
    average: float | jax.Array | Evaluated | None,
    every: int | Callable[[jax.Array], jax.Array],
    hvp: str,
    loss_hyperparams: Collection[str],
    relative: bool,
    max_tangent: float | jax.Array | None,
    finds_first_rate: bool,
    tangent_dtype: Any,
) -> Method:
    """The arguments of :func:`online`, or an error that says what to pass instead."""
    if not isinstance(hyperparams, Mapping) or not hyperparams:
        raise TypeError(
            'hyperparams must be a dict with at least one entry, such as {"learning_rate": 0.01}, '
            f"got {hyperparams!r}"
        )
    for name in hyperparams:
        if name in _RESERVED:
            raise ValueError(
                f"hyperparams has {name!r}, which is the name of one of hyperlr.metrics: call it "
                f"otherwise, with inner=lambda {name}_of_inner: ..."
            )
    limits = {name: (0.0, float("inf")) for name in hyperparams} | dict(bounds or {})
    _checks.check_names("loss_hyperparams", loss_hyperparams, hyperparams)
    _checks.check_bounds(limits, hyperparams)
    for name, value in hyperparams.items():
        _checks.check_float_scalar(name, value, *limits[name])
    inner_names = tuple(name for name in hyperparams if name not in loss_hyperparams)
    _checks.check_inner(inner, inner_names)
    if discount is not None and not callable(discount):
        _checks.check_float_scalar("discount", discount, 0.0, 1.0)
    if average is not None and not callable(average):
        _checks.check_float_scalar("average", average, lower=0.0)
    if max_tangent is not None:
        _checks.check_float_scalar("max_tangent", max_tangent, lower=0.0)
    if finds_first_rate and "learning_rate" not in inner_names:
        raise ValueError(
            "finds_first_rate looks for learning_rate, which is not among the hyperparams of inner "
            f"{sorted(inner_names)}: leave it out, or name the rate so"
        )
    if not callable(every):
        _checks.check_count("every", every)
    _checks.check_choice("hvp", hvp, _derivatives.HVP_MODES)
    _checks.check_transformation("hyper_optimizer", hyper_optimizer)
    if tangent_dtype is not None and not jnp.issubdtype(tangent_dtype, jnp.floating):
        raise TypeError(f"tangent_dtype must be a floating-point dtype, got {tangent_dtype!r}")
    forgets = discount is not None and not callable(discount) and _checks.is_zero(discount)
    return Method(
        inner=inner,
        inner_names=inner_names,
        discount=discount,
        rule=hyper_optimizer,
        bounds=limits,
        average=average,
        relative=relative,
        max_tangent=max_tangent,
        tangent_dtype=tangent_dtype,
        settings=Settings(
            every=every,
            hvp=hvp,
            loss_hyperparams=tuple(name for name in hyperparams if name in loss_hyperparams),
            needs_product=not forgets,
            finds_first_rate=finds_first_rate,
        ),
    )
