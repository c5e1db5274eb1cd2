"""How MARTHE adapts the discount μ: the more, the better the past agrees with the last step."""

import jax.numpy as jnp

from hyperlr import _numbers, _trees
from hyperlr._inner_step import Hyperparams
from hyperlr._state import PerName
from hyperlr._trees import Tree


def adapted_discount(
    hypergradient: Hyperparams, direct: PerName, objective_grad: Tree, horizon: PerName
) -> Hyperparams:
    """μ_t = clip(Δη_t / g′_t, 0, 1)^(1 / (c_{t-1} + 1)), and 0 where g′_t = 0.

    The one-step hypergradient is g′_t = ⟨B_{t-1}, ∇E(w_t)⟩. Eq. 10 of the paper prints E there for
    its gradient, which is no derivative of the one-step objective, nor even a scalar product. The
    exponent is the printed one (Appendix B); the authors' later code has c_t in place of c_{t-1}.

    Where B_{t-1} = 0, the inner optimizer made no step (it accumulates gradients, or its schedule
    is at 0). There is nothing to compare with then, and μ_t = 1 lets the past be.

    Args:
      hypergradient: Δη_t, a scalar for each name.
      direct: the parameters' part of B_{t-1}, for each name.
      objective_grad: ∇E(w_t), floating-point leaves only.
      horizon: c_{t-1}, a scalar for each name.

    References:
      Donini et al., 2020, Appendix B.
    """
    discount = {}
    for name, tangent in direct.items():
        one_step = _numbers.inner_product(tangent, _trees.restricted(objective_grad, tangent))
        stands_still = _numbers.inner_product(tangent, tangent) == 0
        quotient = jnp.clip(_numbers.ratio(hypergradient[name], one_step), 0.0, 1.0)
        adapted = quotient ** (1.0 / (horizon[name] + 1.0))
        discount[name] = jnp.where(stands_still, 1.0, adapted)
    return discount
