"""RMSprop: AdaGrad with a running average of squared gradients in place of their sum.

The average forgets, so a rate that steep gradients have lowered recovers. Near a minimum the
effective rate settles at a constant, and the iterates may oscillate around it.
"""

import jax
import optax

from hyperlr.optimizers._checks import check_decay, check_root
from hyperlr.optimizers._precision import in_float32


def rmsprop(
    learning_rate: optax.ScalarOrSchedule,
    decay: jax.typing.ArrayLike = 0.9,
    eps: jax.typing.ArrayLike = 1e-16,
) -> optax.GradientTransformationExtraArgs:
    """RMSprop, with derivatives that hold at zero gradients.

    With g_t the gradient, all operations elementwise and v_0 = 0::

        v_t = decay · v_{t-1} + (1 − decay) g_t²
        w_{t+1} = w_t − learning_rate · g_t / √(v_t + eps)

    Args:
      learning_rate: η, a scalar (maybe traced) or a schedule, in units of the parameters.
      decay: β in [0, 1), the part of v that is kept each step.
      eps: added inside the root, as in ``optax.rmsprop``, in units of a squared gradient. The
        default is the square of the customary 1e-8; in float32 it should stay above 1e-24.

    Returns:
      A transformation whose ``update(grads, state, params=None, **extra_args)`` ignores unknown
      extra arguments. ``jvp``, ``vjp`` and ``vmap`` are supported. The slope of the update at
      v = g = 0 is −learning_rate / √eps, which is large but true.

    Raises:
      ValueError: a static ``decay`` is outside [0, 1), or a static ``eps`` is not positive.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.optimizers import rmsprop
      >>> tx = rmsprop(0.5, decay=0.75)
      >>> params = jnp.array([3.0, 2.0])
      >>> updates, state = tx.update(2 * params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [2. 1.]

    References:
      Tieleman and Hinton, "Neural networks for machine learning", lecture 6.5, 2012.
    """
    return in_float32(
        optax.chain(scale_by_rmsprop(decay, eps), optax.scale_by_learning_rate(learning_rate))
    )


def scale_by_rmsprop(
    decay: jax.typing.ArrayLike = 0.9, eps: jax.typing.ArrayLike = 1e-16
) -> optax.GradientTransformationExtraArgs:
    """The direction g_t / √(v_t + eps) of :func:`rmsprop`, for ``optax.chain``.

    Args:
      decay: β in [0, 1), the part of v that is kept each step.
      eps: added inside the root, in units of a squared gradient.

    Returns:
      A transformation; ``jvp``, ``vjp`` and ``vmap`` are supported.

    Raises:
      ValueError: a static ``decay`` is outside [0, 1), or a static ``eps`` is not positive.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.optimizers import scale_by_rmsprop
      >>> tx = optax.chain(scale_by_rmsprop(decay=0.75), optax.scale(-0.5))
      >>> params = jnp.array([3.0, 2.0])
      >>> updates, state = tx.update(2 * params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [2. 1.]

    References:
      See :func:`rmsprop`.
    """
    check_decay("decay", decay)
    check_root("eps", eps)
    return in_float32(optax.scale_by_rms(decay, eps, eps_in_sqrt=True))
