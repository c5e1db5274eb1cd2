"""How MARTHE adapts the discount μ: the more, the better the past agrees with the last step."""

import jax
import jax.numpy as jnp

from hyperlr import _numbers


def adapted_discount(
    hypergradient: jax.Array, one_step: jax.Array, direct: jax.Array, horizon: jax.Array
) -> jax.Array:
    """μ_t = clip(Δη_t / g′_t, 0, 1)^(1 / (c_{t-1} + 1)), and 0 where g′_t = 0.

    The one-step hypergradient is g′_t = ⟨B_{t-1}, ∇E(w_t)⟩. Eq. 10 of the paper prints E there for
    its gradient, which is no derivative of the one-step objective, nor even a scalar product. The
    exponent is the printed one (Appendix B); the authors' later code has c_t in place of c_{t-1}.

    Where B_{t-1} = 0, the inner optimizer made no step (it accumulates gradients, or its schedule
    is at 0). There is nothing to compare with then, and μ_t = 1 lets the past be.

    Args:
      hypergradient: Δη_t, a scalar, as all here.
      one_step: g′_t.
      direct: ‖B_{t-1}‖² over the parameters.
      horizon: c_{t-1}.

    References:
      Donini et al., 2020, Appendix B.
    """
    quotient = jnp.clip(_numbers.ratio(hypergradient, one_step), 0.0, 1.0)
    return jnp.where(direct == 0, 1.0, quotient ** (1.0 / (horizon + 1.0)))
