"""How well a tangent and the gradient of the objective agree: the angle that moves a rate."""

from typing import Any

import jax
import optax

from hyperlr import _numbers, _trees
from hyperlr._state import online_states
from hyperlr._trees import Tree


def alignment(opt_state: optax.OptState, objective_grad: Tree) -> dict[str, jax.Array]:
    r"""The length of the tangent, and its cosine with the gradient of the objective.

    With Z_t the tangent in a state and e = ∇E(w_t), where an average is kept Z̄_t and ∇E(w̄_t)::

        cosine = ⟨Z_t, e⟩ / (‖Z_t‖ ‖e‖) = Δη_t / (‖Z_t‖ ‖e‖)

    Below 0 a larger rate would have been better, above 0 a smaller one; around 0, with either sign
    as often, the rate is where it should be.

    Args:
      opt_state: the state *before* an update, of a method of hyperlr or of a chain or wrapper that
        contains one.
      objective_grad: the e that this update receives, like the parameters: with
        :func:`hyperlr.value_and_grad` it is ``extra.get("val_grad", grads)``.

    Returns:
      A dict of scalars of the tangents' dtype, for logging beside :func:`hyperlr.metrics`.
      ``tangent_norm`` is ‖Z‖, in units of the parameters over those of the rate; ``objective_norm``
      is ‖e‖; ``cosine`` is 0 where Z or e is. In steps that do not move the rate (``every``),
      ``val_grad`` of :func:`hyperlr.value_and_grad` is 0. With several hyperparameters the first
      and the last are ``cosine/momentum`` and so on. Supports ``jit``, ``scan`` and ``vmap``.

    Raises:
      ValueError: ``opt_state`` does not contain exactly one method of hyperlr.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hyperlr
      >>> tx = hyperlr.rtho(optax.sgd, 0.01, 1e-4)
      >>> params, loss = jnp.ones(3), lambda w: jnp.sum(w**2)
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     grads = jax.grad(loss)(params)
      ...     seen = hyperlr.alignment(state, grads)
      ...     updates, state = tx.update(grads, state, params, value_fn=loss)
      ...     params = optax.apply_updates(params, updates)
      >>> print(f"{seen['cosine']:.2f}")  # a larger rate would have been better
      -1.00
    """
    methods = online_states(opt_state)
    if len(methods) != 1:
        raise ValueError(
            f"opt_state contains {len(methods)} methods of hyperlr, and alignment looks at one: "
            "pass the part of the state that belongs to it"
        )
    [method] = methods
    if method.average is not None:
        looked_at = dict(method.average.tangent)
    else:
        looked_at = {name: tangent.params for name, tangent in method.tangent.items()}
    # Both as the parameters are, whatever a mask or a wrapper around the method shows of them.
    looked_at = {name: _trees.spread(z, objective_grad) for name, z in looked_at.items()}
    e = _trees.restricted(objective_grad, next(iter(looked_at.values())))
    objective_norm = _numbers.norm(e)
    found: dict[str, Any] = {"objective_norm": objective_norm}
    for name, tangent in looked_at.items():
        norm = _numbers.norm(tangent)
        # One norm after the other: their product can overflow.
        cosine = _numbers.ratio(
            _numbers.ratio(_numbers.inner_product(tangent, e), norm), objective_norm
        )
        suffix = "" if len(looked_at) == 1 else f"/{name}"
        found |= {f"tangent_norm{suffix}": norm, f"cosine{suffix}": cosine}
    return found
