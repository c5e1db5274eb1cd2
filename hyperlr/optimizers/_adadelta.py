"""AdaDelta: RMSprop whose rate is the running size of its own updates.

The quotient of two root mean squares, of past updates and of gradients, carries the units of the
parameters, so no initial rate has to be tuned.
"""

import jax
import optax

from hyperlr.optimizers._checks import check_decay, check_root
from hyperlr.optimizers._precision import in_float32


def adadelta(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    rho: jax.typing.ArrayLike = 0.9,
    eps: jax.typing.ArrayLike = 1e-6,
) -> optax.GradientTransformationExtraArgs:
    """AdaDelta, with derivatives that hold at zero gradients.

    With g_t the gradient, all operations elementwise and u_0 = v_0 = 0::

        v_t = rho · v_{t-1} + (1 − rho) g_t²
        Δ_t = −√(u_{t-1} + eps) / √(v_t + eps) · g_t
        u_t = rho · u_{t-1} + (1 − rho) Δ_t²
        w_{t+1} = w_t + learning_rate · Δ_t

    The numerator has u, the average of squared updates; with v there, as one finds it in print,
    too, the units would be wrong. The average is of Δ, before ``learning_rate`` scales it.

    Args:
      learning_rate: scale of the update, a scalar (maybe traced) or a schedule, without units; at
        the default 1 this is the published algorithm, which has no learning rate.
      rho: β in [0, 1), the part of u and v that is kept each step.
      eps: added inside both roots, which sets the size of the first steps.

    Returns:
      A transformation whose ``update(grads, state, params=None, **extra_args)`` ignores unknown
      extra arguments. ``jvp``, ``vjp`` and ``vmap`` are supported.

    Raises:
      ValueError: a static ``rho`` is outside [0, 1), or a static ``eps`` is not positive.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.optimizers import adadelta
      >>> tx = adadelta(25.0, rho=0.75, eps=1e-4)
      >>> params = jnp.array([3.0, 2.0])
      >>> updates, state = tx.update(2 * params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates).round(4))
      [2.5 1.5]

    References:
      Zeiler, "ADADELTA: an adaptive learning rate method", 2012.
    """
    return in_float32(
        optax.chain(scale_by_adadelta(rho, eps), optax.scale_by_learning_rate(learning_rate))
    )


def scale_by_adadelta(
    rho: jax.typing.ArrayLike = 0.9, eps: jax.typing.ArrayLike = 1e-6
) -> optax.GradientTransformationExtraArgs:
    """The direction −Δ_t of :func:`adadelta`, for ``optax.chain``.

    Args:
      rho: β in [0, 1), the part of u and v that is kept each step.
      eps: added inside both roots, which sets the size of the first steps.

    Returns:
      A transformation; ``jvp``, ``vjp`` and ``vmap`` are supported.

    Raises:
      ValueError: a static ``rho`` is outside [0, 1), or a static ``eps`` is not positive.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.optimizers import scale_by_adadelta
      >>> tx = optax.chain(scale_by_adadelta(rho=0.75, eps=1e-4), optax.scale(-25.0))
      >>> params = jnp.array([3.0, 2.0])
      >>> updates, state = tx.update(2 * params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates).round(4))
      [2.5 1.5]

    References:
      See :func:`adadelta`.
    """
    check_decay("rho", rho)
    check_root("eps", eps)
    return in_float32(optax.scale_by_adadelta(rho, eps))
