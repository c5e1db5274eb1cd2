"""NAdam: Adam with Nesterov's momentum in place of its average of gradients."""

import jax
import optax

from hyperlr.optimizers._checks import check_decay, check_eps, check_root
from hyperlr.optimizers._precision import in_float32


def nadam(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 0.0,
    eps_root: jax.typing.ArrayLike = 1e-16,
) -> optax.GradientTransformationExtraArgs:
    """NAdam, with derivatives that hold at zero gradients.

    With g_t the gradient (t = 1, 2, …), all operations elementwise and m_0 = v_0 = 0::

        m_t = b1 · m_{t-1} + (1 − b1) g_t
        v_t = b2 · v_{t-1} + (1 − b2) g_t²
        m̂_t = b1 · m_t / (1 − b1^(t+1)) + (1 − b1) g_t / (1 − b1^t)
        v̂_t = v_t / (1 − b2^t)
        w_{t+1} = w_t − learning_rate · m̂_t / (√(v̂_t + eps_root) + eps)

    This is Dozat's algorithm, at a constant β₁, without the further factor β₂ that one version of
    it has on v̂. Not to be confused with the velocity of Nesterov's accelerated gradient over
    Adam's denominator; that velocity alone is ``optax.sgd(..., nesterov=True)``.

    Args:
      learning_rate: η, a scalar (maybe traced) or a schedule, in units of the parameters.
      b1: β₁ in [0, 1), the part of m that is kept each step.
      b2: β₂ in [0, 1), the part of v that is kept each step.
      eps: ε, added outside the root as in ``optax.nadam``, in units of a gradient. The default 0
        leaves its part to ``eps_root``.
      eps_root: ε_root, added inside the root, without which there is no derivative at v̂ = 0, in
        units of a squared gradient. The default is the square of the published ε, 1e-8; in float32
        it should stay above 1e-24.

    Returns:
      A transformation whose ``update(grads, state, params=None, **extra_args)`` ignores unknown
      extra arguments. ``jvp``, ``vjp`` and ``vmap`` are supported. The slope of the update at
      v = g = 0 is of the order of −learning_rate / (√eps_root + eps), which is large but true.

    Raises:
      ValueError: a static ``b1`` or ``b2`` is outside [0, 1), ``eps`` negative or ``eps_root`` not
        positive.
      TypeError: a schedule in place of one of them.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.optimizers import nadam
      >>> tx = nadam(0.38)
      >>> params = jnp.array([1.0, 0.5])
      >>> updates, state = tx.update(2 * params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates).round(4))
      [ 0.44 -0.06]

    References:
      Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016.
    """
    return in_float32(
        optax.chain(
            scale_by_nadam(b1, b2, eps, eps_root), optax.scale_by_learning_rate(learning_rate)
        )
    )


def scale_by_nadam(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 0.0,
    eps_root: jax.typing.ArrayLike = 1e-16,
) -> optax.GradientTransformationExtraArgs:
    """The direction m̂_t / (√(v̂_t + eps_root) + eps) of :func:`nadam`, for ``optax.chain``.

    Args:
      b1: β₁ in [0, 1), the part of m that is kept each step.
      b2: β₂ in [0, 1), the part of v that is kept each step.
      eps: added outside the root, in units of a gradient.
      eps_root: added inside the root, in units of a squared gradient.

    Returns:
      A transformation; ``jvp``, ``vjp`` and ``vmap`` are supported.

    Raises:
      ValueError: a static ``b1`` or ``b2`` is outside [0, 1), ``eps`` negative or ``eps_root`` not
        positive.
      TypeError: a schedule in place of one of them.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.optimizers import scale_by_nadam
      >>> tx = optax.chain(scale_by_nadam(), optax.scale(-0.38))
      >>> params = jnp.array([1.0, 0.5])
      >>> updates, state = tx.update(2 * params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates).round(4))
      [ 0.44 -0.06]

    References:
      See :func:`nadam`.
    """
    check_decay("b1", b1)
    check_decay("b2", b2)
    check_eps(eps)
    check_root("eps_root", eps_root)
    return in_float32(optax.scale_by_adam(b1, b2, eps, eps_root, nesterov=True))
