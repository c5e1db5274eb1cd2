"""How MARTHE adapts the discount μ: the more, the better the past agrees with the last step."""

import jax.numpy as jnp

from hyperlr import _numbers
from hyperlr._inner_step import Hyperparams
from hyperlr._trees import Tree


def adapted_discount(
    hypergradient: Hyperparams, direct: dict[str, Tree], objective_grad: Tree, horizon: Hyperparams
) -> Hyperparams:
    """μ_t = clip(Δη_t / g′_t, 0, 1)^(1 / (c_{t-1} + 1)), and 0 where g′_t = 0 (Appendix B of [P]).

    The one-step hypergradient is g′_t = ⟨B_{t-1}, ∇E(w_t)⟩. Eq. 10 of [P] prints E there for its
    gradient, which is no derivative of the one-step objective, nor even a scalar product. The
    exponent is the printed one; the authors' later code has c_t in place of c_{t-1}.

    Args:
      hypergradient: Δη_t, a scalar for each name.
      direct: the parameters' part of B_{t-1}, for each name.
      objective_grad: ∇E(w_t), floating-point leaves only.
      horizon: c_{t-1}, a scalar for each name.
    """
    discount = {}
    for name, tangent in direct.items():
        one_step = _numbers.inner_product(tangent, objective_grad)
        # Two wheres: where g′ = 0 the quotient must be finite in the branch not taken, too.
        defined = one_step != 0
        ratio = jnp.where(defined, hypergradient[name] / jnp.where(defined, one_step, 1.0), 0.0)
        discount[name] = jnp.clip(ratio, 0.0, 1.0) ** (1.0 / (horizon[name] + 1.0))
    return discount
