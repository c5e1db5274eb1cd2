"""A scale-free hyper-optimizer: η moves by a factor, set by the angle between Z and ∇E alone."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperlr import _checks, _numbers


class ExponentiatedGradientState(NamedTuple):
    """State of :func:`exponentiated_gradient`.

    Attributes:
      hyper_learning_rate: γ, a scalar for each hyperparameter, of its dtype.
    """

    hyper_learning_rate: optax.Params


def exponentiated_gradient(
    hyper_learning_rate: float | jax.Array,
    *,
    shrink: float | jax.Array = 1.0,
    push: float | jax.Array = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies η by exp(−γ cos), where cos is the cosine between the tangent and ∇E.

    With Δη = ⟨Z, e⟩ the hypergradient, Z the tangent and e = ∇E::

        η_t = η_{t-1} · exp(−γ Δη_t / (‖Z_t‖ ‖e_t‖))

    The quotient lies in [−1, 1], so one step changes η by at most a factor exp(γ), and no change
    of the units of the loss or of the parameters alters it. Where Z or e is 0, η stays. A large γ
    may bring η down to 0; it can rise from there again.

    With ``shrink`` and ``push``, and x ≥ 0 the excess of a bounded tangent (``max_tangent`` of
    :func:`hyperlr.online`), in place of the cosine c::

        c + min(push · x, 1)  where c ≤ 0,    shrink · c + min(push · x, 1)  where c > 0

    Args:
      hyper_learning_rate: γ ≥ 0, dimensionless; 0.2 is a good first choice. It is kept in the
        state; for one that changes, chain ``optax.scale_by_schedule`` behind this rule.
      shrink: weight ≥ 0 of a cosine that makes η smaller; default 1.
      push: weight ≥ 0 of the excess, which says that η is too large for any tangent to tell;
        default 0.

    Returns:
      A transformation on a dict of scalars, for ``hyper_optimizer`` of :func:`hyperlr.online`. Its
      update needs ``params`` (η) and the extra args ``tangent_norm``, like η, and
      ``objective_norm``, a scalar. Supports ``vmap``.

    Raises:
      TypeError: the argument is not a float scalar.
      ValueError: the argument is static and negative; in ``init``, an η_0 that is known to be 0 or
        less, which no factor could move; in ``update``, a missing argument.

    Example:
      >>> import jax.numpy as jnp, optax, hyperlr
      >>> tx = hyperlr.marthe(
      ...     optax.sgd, 1e-4, discount=0.99, hyper_optimizer=hyperlr.exponentiated_gradient(0.2)
      ... )
      >>> loss = lambda w: jnp.sum(w**2)
      >>> params = jnp.ones(3)
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     updates, state = tx.update(2 * params, state, params, value_fn=loss)
      ...     params = optax.apply_updates(params, updates)
      >>> print(f"{hyperlr.metrics(state)['learning_rate'] / 1e-4:.3f}")  # exp(0.2)
      1.221

    References:
      Kivinen and Warmuth, 1997, for the exponentiated gradient; Donini et al., 2020, Eq. 5,
      for the rule that it takes the place of.
    """
    _checks.check_float_scalar("hyper_learning_rate", hyper_learning_rate, lower=0.0)
    _checks.check_float_scalar("shrink", shrink, lower=0.0)
    _checks.check_float_scalar("push", push, lower=0.0)

    def init_fn(params: optax.Params) -> ExponentiatedGradientState:
        for name, value in params.items():
            if not _checks.is_traced(value) and not float(value) > 0.0:
                raise ValueError(
                    f"exponentiated_gradient multiplies {name}, so its initial value must be "
                    f"positive, got {float(value)}: start from a small one, such as 1e-4"
                )
        return ExponentiatedGradientState(optax.tree.full_like(params, hyper_learning_rate))

    def update_fn(
        updates: optax.Updates,
        state: ExponentiatedGradientState,
        params: optax.Params | None = None,
        *,
        tangent_norm: optax.Params | None = None,
        objective_norm: jax.Array | None = None,
        tangent_excess: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ExponentiatedGradientState]:
        del extra_args
        if params is None or tangent_norm is None or objective_norm is None:
            raise ValueError(
                "exponentiated_gradient needs params, tangent_norm and objective_norm: use it as "
                "the hyper_optimizer of hyperlr.online or hyperlr.marthe, which pass them"
            )

        def step(hypergradient: Any, value: Any, gamma: Any, norm: Any, excess: Any) -> jax.Array:
            # Divided by one norm after the other: their product can overflow or underflow, and
            # with it 0 · ∞, where the cosine is an ordinary number.
            along_tangent = _numbers.ratio(hypergradient, norm)
            cosine = _numbers.ratio(along_tangent, objective_norm)
            # Beyond 1 by rounding alone, which is much where the squares of the norms underflow.
            cosine = jnp.clip(cosine, -1.0, 1.0)
            cosine = jnp.where(cosine > 0, shrink * cosine, cosine)
            cosine = (cosine + jnp.minimum(push * excess, 1.0)).astype(value.dtype)
            # No factor moves 0, where a large γ or an underflow can have brought η: from there it
            # goes on like the smallest number that a small factor still changes.
            limits = jnp.finfo(value.dtype)
            return jnp.maximum(value, limits.tiny / limits.eps) * jnp.expm1(-gamma * cosine)

        excess = optax.tree.zeros_like(params) if tangent_excess is None else tangent_excess
        steps = jax.tree.map(step, updates, params, state.hyper_learning_rate, tangent_norm, excess)
        return steps, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
