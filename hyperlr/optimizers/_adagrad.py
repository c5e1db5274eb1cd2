"""AdaGrad: each parameter's rate falls with the sum of its squared gradients.

The running sum gives rarely updated parameters, such as the weights of sparse features, larger
steps than often updated ones; since it never shrinks, neither does it ever let a rate recover.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperlr.optimizers._checks import check_root
from hyperlr.optimizers._precision import in_float32


class ScaleByAdagradState(NamedTuple):
    """State of :func:`scale_by_adagrad`.

    Attributes:
      sum_of_squares: v, the sum of all squared gradients, like the parameters, at least float32.
    """

    sum_of_squares: optax.Updates


def adagrad(
    learning_rate: optax.ScalarOrSchedule, eps: jax.typing.ArrayLike = 1e-16
) -> optax.GradientTransformationExtraArgs:
    """AdaGrad, with derivatives that hold at zero gradients.

    With g_t the gradient, all operations elementwise and v_0 = 0::

        v_t = v_{t-1} + g_t²
        w_{t+1} = w_t − learning_rate · g_t / √(v_t + eps)

    Args:
      learning_rate: η, a scalar (maybe traced) or a schedule, in units of the parameters.
      eps: added inside the root, as in ``optax.adagrad``, in units of a squared gradient. The
        default is the square of the customary 1e-8; in float32 it should stay above 1e-24.

    Returns:
      A transformation whose ``update(grads, state, params=None, **extra_args)`` ignores unknown
      extra arguments. ``jvp``, ``vjp`` and ``vmap`` are supported. The slope of the update at
      v = g = 0 is −learning_rate / √eps, which is large but true.

    Raises:
      ValueError: a static ``eps`` is not positive.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.optimizers import adagrad
      >>> tx = adagrad(0.5)
      >>> params = jnp.array([3.0, 2.0])
      >>> updates, state = tx.update(2 * params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [2.5 1.5]

    References:
      Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic
      optimization", JMLR 2011.
    """
    return in_float32(
        optax.chain(scale_by_adagrad(eps), optax.scale_by_learning_rate(learning_rate))
    )


def scale_by_adagrad(
    eps: jax.typing.ArrayLike = 1e-16,
) -> optax.GradientTransformationExtraArgs:
    """The direction g_t / √(v_t + eps) of :func:`adagrad`, for ``optax.chain``.

    Args:
      eps: added inside the root, in units of a squared gradient.

    Returns:
      A transformation; ``jvp``, ``vjp`` and ``vmap`` are supported.

    Raises:
      ValueError: a static ``eps`` is not positive.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.optimizers import scale_by_adagrad
      >>> tx = optax.chain(scale_by_adagrad(), optax.trace(decay=0.9), optax.scale(-0.5))
      >>> params = jnp.array([3.0, 2.0])
      >>> updates, state = tx.update(2 * params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [2.5 1.5]

    References:
      See :func:`adagrad`.
    """
    check_root("eps", eps)

    def init_fn(params: optax.Params) -> ScaleByAdagradState:
        return ScaleByAdagradState(sum_of_squares=optax.tree.zeros_like(params))

    def update_fn(
        updates: optax.Updates,
        state: ScaleByAdagradState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAdagradState]:
        del params, extra_args
        sum_of_squares = jax.tree.map(lambda g, v: v + g**2, updates, state.sum_of_squares)
        # optax.scale_by_rss has this formula but sets the quotient to 0 wherever v = 0, and with
        # it the slope, which is 1/√eps there. Hence code of our own.
        updates = jax.tree.map(lambda g, v: g / jnp.sqrt(v + eps), updates, sum_of_squares)
        return updates, ScaleByAdagradState(sum_of_squares=sum_of_squares)

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))
