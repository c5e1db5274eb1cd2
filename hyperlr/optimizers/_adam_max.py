"""Adam Max: Adam whose second moment is that of the largest gradient of each array.

One denominator serves a whole array, so a gradient that alternates between large and zero does not
make the rate of its own entry swing.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperlr.optimizers._checks import check_decay, check_eps, check_root
from hyperlr.optimizers._precision import in_float32


def adam_max(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 0.0,
    eps_root: jax.typing.ArrayLike = 1e-16,
) -> optax.GradientTransformationExtraArgs:
    """Adam over the maximum norm, with derivatives that hold at zero gradients.

    With g_t the gradient of one array of parameters (t = 1, 2, …), m_0 = 0 and the scalar v_0 = 0::

        m_t = b1 · m_{t-1} + (1 − b1) g_t          m̂_t = m_t / (1 − b1^t)
        v_t = b2 · v_{t-1} + (1 − b2) ‖g_t‖²_∞     v̂_t = v_t / (1 − b2^t)
        w_{t+1} = w_t − learning_rate · m̂_t / (√(v̂_t + eps_root) + eps)

    It averages squared maxima where the published AdaMax, :func:`~hyperlr.optimizers.adamax`, takes
    a decaying maximum. The squared norm is smooth at g = 0, where its slope is 0;
    where several entries tie for the maximum, its derivative is the mean of theirs.

    Args:
      learning_rate: η, a scalar (maybe traced) or a schedule, in units of the parameters.
      b1: β₁ in [0, 1), the part of m that is kept each step.
      b2: β₂ in [0, 1), the part of v that is kept each step.
      eps: ε, added outside the root as in ``optax.adam``, in units of a gradient. The default 0
        leaves its part to ``eps_root``.
      eps_root: ε_root, added inside the root, without which there is no derivative at v̂ = 0, in
        units of a squared gradient. The default is the square of the published ε, 1e-8; in float32
        it should stay above 1e-24.

    Returns:
      A transformation whose ``update(grads, state, params=None, **extra_args)`` ignores unknown
      extra arguments. ``jvp``, ``vjp`` and ``vmap`` are supported. The slope of the update at
      v = 0, g = 0 is of the order of −learning_rate / (√eps_root + eps), which is large but true.

    Raises:
      ValueError: a static ``b1`` or ``b2`` is outside [0, 1), ``eps`` negative or ``eps_root`` not
        positive.
      TypeError: a schedule in place of one of them.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.optimizers import adam_max
      >>> tx = adam_max(0.5)
      >>> params = jnp.array([4.0, 2.0])
      >>> updates, state = tx.update(2 * params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates).round(4))
      [3.5  1.75]

    References:
      Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, for Adam, with the
      maximum norm over each array in place of the absolute value of each entry.
    """
    return in_float32(
        optax.chain(
            scale_by_adam_max(b1, b2, eps, eps_root), optax.scale_by_learning_rate(learning_rate)
        )
    )


def scale_by_adam_max(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 0.0,
    eps_root: jax.typing.ArrayLike = 1e-16,
) -> optax.GradientTransformationExtraArgs:
    """The direction m̂_t / (√(v̂_t + eps_root) + eps) of :func:`adam_max`, for ``optax.chain``.

    Args:
      b1: β₁ in [0, 1), the part of m that is kept each step.
      b2: β₂ in [0, 1), the part of v that is kept each step.
      eps: added outside the root, in units of a gradient.
      eps_root: added inside the root, in units of a squared gradient.

    Returns:
      A transformation; ``jvp``, ``vjp`` and ``vmap`` are supported. Of its state, ``mu`` is m, like
      the parameters, and ``nu`` is v, a scalar for each of their arrays, both at least float32.

    Raises:
      ValueError: a static ``b1`` or ``b2`` is outside [0, 1), ``eps`` negative or ``eps_root`` not
        positive.
      TypeError: a schedule in place of one of them.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.optimizers import scale_by_adam_max
      >>> tx = optax.chain(scale_by_adam_max(), optax.scale(-0.5))
      >>> params = jnp.array([4.0, 2.0])
      >>> updates, state = tx.update(2 * params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates).round(4))
      [3.5  1.75]

    References:
      See :func:`adam_max`.
    """
    check_decay("b1", b1)
    check_decay("b2", b2)
    check_eps(eps)
    check_root("eps_root", eps_root)

    def init_fn(params: optax.Params) -> optax.ScaleByAdamState:
        return optax.ScaleByAdamState(
            count=jnp.zeros((), jnp.int32),
            mu=optax.tree.zeros_like(params),
            nu=jax.tree.map(lambda p: jnp.zeros((), p.dtype), params),
        )

    def update_fn(
        updates: optax.Updates,
        state: optax.ScaleByAdamState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        del params, extra_args
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        # `initial` is the maximum over an array without entries.
        largest = jax.tree.map(lambda g: jnp.max(g**2, initial=0.0), updates)
        nu = optax.tree.update_moment(largest, state.nu, b2, 1)
        updates = jax.tree.map(
            lambda m, v: m / (jnp.sqrt(v + eps_root) + eps),
            optax.tree.bias_correction(mu, b1, count),
            optax.tree.bias_correction(nu, b2, count),
        )
        return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))
