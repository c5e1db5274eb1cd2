"""AdamW: Adam whose weights also decay by themselves, apart from the gradients."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from hyperlr.optimizers._adam import scale_by_adam
from hyperlr.optimizers._precision import in_float32


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 0.0,
    eps_root: jax.typing.ArrayLike = 1e-16,
    *,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam with decoupled weight decay, with derivatives that hold at zero gradients.

    With m̂_t and v̂_t as in :func:`~hyperlr.optimizers.adam`, all operations elementwise::

        w_{t+1} = w_t − learning_rate · (m̂_t / (√(v̂_t + eps_root) + eps) + weight_decay · w_t)

    The decay is no part of the gradients, so that neither m nor v sees it, and it is scaled by the
    learning rate: its share in the derivative of the update with respect to the learning rate is
    −weight_decay · w_t.

    Args:
      learning_rate: η, a scalar (maybe traced) or a schedule, in units of the parameters.
      b1: β₁ in [0, 1), the part of m that is kept each step.
      b2: β₂ in [0, 1), the part of v that is kept each step.
      eps: ε, added outside the root as in ``optax.adamw``, in units of a gradient. The default 0
        leaves its part to ``eps_root``.
      eps_root: ε_root, added inside the root, without which there is no derivative at v̂ = 0, in
        units of a squared gradient. The default is the square of the published ε, 1e-8; in float32
        it should stay above 1e-24.
      weight_decay: λ, a scalar (maybe traced) or a schedule, without units.
      mask: a tree of booleans like the parameters, or a prefix of one, or a function of the
        parameters that returns such; ``False`` where weights do not decay. By default all do.

    Returns:
      A transformation whose ``update(grads, state, params, **extra_args)`` needs ``params``, and
      ignores unknown extra arguments. ``jvp``, ``vjp`` and ``vmap`` are supported. The slope of the
      update at v = g = 0 is of the order of −learning_rate / (√eps_root + eps), which is large but
      true.

    Raises:
      ValueError: a static ``b1`` or ``b2`` is outside [0, 1), ``eps`` negative or ``eps_root`` not
        positive; in ``update``, ``params`` is missing.
      TypeError: a schedule in place of one of them.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.optimizers import adamw
      >>> tx = adamw(0.5, weight_decay=0.1, mask={"w": True, "b": False})
      >>> params = {"w": jnp.array([3.0, 2.0]), "b": jnp.array(1.0)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
      >>> print(params["w"].round(4), params["b"].round(4))
      [2.35 1.4 ] 0.5

    References:
      Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """
    return in_float32(
        optax.chain(
            scale_by_adam(b1, b2, eps, eps_root),
            optax.add_decayed_weights(weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )
