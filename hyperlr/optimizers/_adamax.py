"""AdaMax: Adam with a decaying maximum of gradients in place of their mean square."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperlr.optimizers._checks import check_decay, check_eps, check_root
from hyperlr.optimizers._precision import in_float32


def adamax(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 0.0,
    eps_root: jax.typing.ArrayLike = 1e-16,
) -> optax.GradientTransformationExtraArgs:
    """AdaMax, with derivatives that hold at zero gradients.

    With g_t the gradient (t = 1, 2, …), all operations elementwise and m_0 = u_0 = 0::

        m_t = b1 · m_{t-1} + (1 − b1) g_t
        u_t = max(b2 · u_{t-1}, √(g_t² + eps_root) + eps)
        w_{t+1} = w_t − learning_rate · m_t / (1 − b1^t) / u_t

    The published algorithm has ``|g_t|`` for the root: 0/0 for a parameter whose gradient has
    always been zero, and a kink, on which JAX's derivative of ``|g|`` is that of one side. The root
    is smooth at g = 0, where its slope is 0. At a tie of the maximum the tangent is the mean of
    both sides, as a central difference has it.

    Args:
      learning_rate: η, a scalar (maybe traced) or a schedule, in units of the parameters.
      b1: β₁ in [0, 1), the part of m that is kept each step.
      b2: β₂ in [0, 1), the part of the maximum that is kept each step.
      eps: ε, added outside the root as in ``optax.adamax``, in units of a gradient. The default 0
        leaves its part to ``eps_root``.
      eps_root: ε_root, added inside the root, without which there is no derivative at g = 0, in
        units of a squared gradient. The default is the square of the published ε, 1e-8; in float32
        it should stay above 1e-24.

    Returns:
      A transformation whose ``update(grads, state, params=None, **extra_args)`` ignores unknown
      extra arguments. ``jvp``, ``vjp`` and ``vmap`` are supported. The slope of the update at
      u = g = 0 is of the order of −learning_rate / (√eps_root + eps), which is large but true.

    Raises:
      ValueError: a static ``b1`` or ``b2`` is outside [0, 1), ``eps`` negative or ``eps_root`` not
        positive.
      TypeError: a schedule in place of one of them.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.optimizers import adamax
      >>> tx = adamax(0.5)
      >>> params = jnp.array([3.0, 2.0])
      >>> updates, state = tx.update(2 * params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates).round(4))
      [2.5 1.5]

    References:
      Kingma and Ba, "Adam: a method for stochastic optimization", section 7.1, ICLR 2015.
      With an average of squared maxima it is :func:`~hyperlr.optimizers.adam_max`.
    """
    return in_float32(
        optax.chain(
            scale_by_adamax(b1, b2, eps, eps_root), optax.scale_by_learning_rate(learning_rate)
        )
    )


def scale_by_adamax(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 0.0,
    eps_root: jax.typing.ArrayLike = 1e-16,
) -> optax.GradientTransformationExtraArgs:
    """The direction m_t / (1 − b1^t) / u_t of :func:`adamax`, for ``optax.chain``.

    Args:
      b1: β₁ in [0, 1), the part of m that is kept each step.
      b2: β₂ in [0, 1), the part of the maximum that is kept each step.
      eps: added outside the root, in units of a gradient.
      eps_root: added inside the root, in units of a squared gradient.

    Returns:
      A transformation; ``jvp``, ``vjp`` and ``vmap`` are supported. Of its state, ``mu`` is m and
      ``nu`` is u, both like the parameters and at least float32.

    Raises:
      ValueError: a static ``b1`` or ``b2`` is outside [0, 1), ``eps`` negative or ``eps_root`` not
        positive.
      TypeError: a schedule in place of one of them.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.optimizers import scale_by_adamax
      >>> tx = optax.chain(scale_by_adamax(), optax.scale(-0.5))
      >>> params = jnp.array([3.0, 2.0])
      >>> updates, state = tx.update(2 * params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates).round(4))
      [2.5 1.5]

    References:
      See :func:`adamax`.
    """
    check_decay("b1", b1)
    check_decay("b2", b2)
    check_eps(eps)
    check_root("eps_root", eps_root)

    def init_fn(params: optax.Params) -> optax.ScaleByAdamState:
        return optax.ScaleByAdamState(
            count=jnp.zeros((), jnp.int32),
            mu=optax.tree.zeros_like(params),
            nu=optax.tree.zeros_like(params),
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
        # optax.scale_by_adamax has |g| + eps here, and so the kink. Hence code of our own.
        nu = jax.tree.map(
            lambda g, u: jnp.maximum(b2 * u, jnp.sqrt(g**2 + eps_root) + eps), updates, state.nu
        )
        mu_hat = optax.tree.bias_correction(mu, b1, count)
        updates = jax.tree.map(lambda m, u: m / u, mu_hat, nu)
        return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))
