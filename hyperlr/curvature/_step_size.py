"""Step sizes of gradient descent from the curvature along the gradient.

To second order, a step −ε g along the gradient g changes the loss by −ε gᵀg + ½ ε² gᵀHg. The sign
of the last term is easily lost in print; that ε ≤ 2 gᵀg / gᵀHg lowers the loss follows from it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hyperlr._numbers import inner_product
from hyperlr.curvature._hvp import hvp

Tree = Any


def rayleigh_quotient(
    value_fn: Callable[[Tree], jax.Array], params: Tree, vector: Tree | None = None
) -> jax.Array:
    """The curvature of a loss along a direction, by default along its gradient.

    With H the Hessian of ``value_fn`` at ``params`` and v the ``vector``::

        ρ = vᵀHv / vᵀv,    0 where v = 0

    Args:
      value_fn: L, a scalar function of the parameters, twice differentiable.
      params: w, a pytree of floating-point arrays.
      vector: v, like ``params``; by default the gradient of ``value_fn``.

    Returns:
      ρ, a scalar in at least float32, between the least and the largest eigenvalue of H. ``jvp``,
      ``vjp`` and ``vmap`` are supported.

    Example:
      >>> import jax.numpy as jnp
      >>> from hyperlr.curvature import rayleigh_quotient
      >>> loss = lambda w: 0.5 * jnp.sum(jnp.array([1.0, 3.0]) * w**2)
      >>> print(rayleigh_quotient(loss, jnp.array([3.0, 1.0])))
      2.0

    References:
      Goodfellow, Bengio and Courville, "Deep learning", 2016, Section 4.3.
    """
    if vector is None:
        vector = jax.grad(value_fn)(params)
    squared_norm = inner_product(vector, vector)
    # Where v = 0 the numerator is 0, too, and so the quotient.
    denominator = jnp.where(squared_norm > 0, squared_norm, 1.0)
    return inner_product(vector, hvp(value_fn, params, vector)) / denominator


def max_stable_learning_rate(
    value_fn: Callable[[Tree], jax.Array], params: Tree, grads: Tree | None = None
) -> jax.Array:
    """The largest step of gradient descent that, to second order, does not raise the loss.

    With g the gradient and H the Hessian of ``value_fn`` at ``params``::

        ε_max = 2 gᵀg / gᵀHg,    ∞ where gᵀHg ≤ 0

    Args:
      value_fn: L, a scalar function of the parameters, twice differentiable.
      params: w, a pytree of floating-point arrays.
      grads: g, if it is at hand; by default the gradient of ``value_fn``.

    Returns:
      ε_max, a scalar in at least float32; infinite at zero gradient. ``jvp`` and ``vjp`` are
      supported (zero where it is infinite), and ``vmap``.

    Example:
      >>> import jax.numpy as jnp
      >>> from hyperlr.curvature import max_stable_learning_rate
      >>> loss = lambda w: 0.5 * jnp.sum(jnp.array([1.0, 3.0]) * w**2)
      >>> print(max_stable_learning_rate(loss, jnp.array([3.0, 1.0])))
      1.0

    References:
      Goodfellow, Bengio and Courville, "Deep learning", 2016, Section 4.3.
    """
    return 2.0 * optimal_learning_rate(value_fn, params, grads)


def optimal_learning_rate(
    value_fn: Callable[[Tree], jax.Array], params: Tree, grads: Tree | None = None
) -> jax.Array:
    """The step of gradient descent that, to second order, lowers the loss most.

    With g the gradient and H the Hessian of ``value_fn`` at ``params``::

        ε = gᵀg / gᵀHg,    ∞ where gᵀHg ≤ 0

    which is half of the largest stable one, and on a quadratic the exact line search.

    Args:
      value_fn: L, a scalar function of the parameters, twice differentiable.
      params: w, a pytree of floating-point arrays.
      grads: g, if it is at hand; by default the gradient of ``value_fn``.

    Returns:
      ε, a scalar in at least float32; infinite at zero gradient. ``jvp`` and ``vjp`` are supported
      (zero where it is infinite), and ``vmap``.

    Example:
      >>> import jax.numpy as jnp
      >>> from hyperlr.curvature import optimal_learning_rate
      >>> loss = lambda w: 0.5 * jnp.sum(jnp.array([1.0, 3.0]) * w**2)
      >>> print(optimal_learning_rate(loss, jnp.array([3.0, 1.0])))
      0.5

    References:
      Goodfellow, Bengio and Courville, "Deep learning", 2016, Section 4.3.
    """
    curvature = rayleigh_quotient(value_fn, params, grads)
    # Two wheres: the quotient must be finite in the branch that is not taken, for its tangent.
    positive = curvature > 0
    return jnp.where(positive, 1.0 / jnp.where(positive, curvature, 1.0), jnp.inf)


def finite_stable_learning_rate(
    value_fn: Callable[[Tree], jax.Array], params: Tree, grads: Tree
) -> jax.Array:
    """:func:`max_stable_learning_rate`, but the largest finite number where there is no limit.

    No ∞ is formed on the way, so that ``jax_debug_infs`` has nothing to stop at.
    """
    curvature = rayleigh_quotient(value_fn, params, grads)
    bends = curvature > 0
    largest = jnp.finfo(curvature.dtype).max
    return jnp.where(bends, 2.0 / jnp.where(bends, curvature, 1.0), largest)


def gradient_norm_bound(
    lipschitz: float | jax.Array,
    initial_value: float | jax.Array,
    optimal_value: float | jax.Array,
    num_steps: float | jax.Array,
) -> jax.Array:
    """How small the smallest gradient of gradient descent with step 1/L is at most.

    With L = ``lipschitz``, f_0 and f* the initial and the optimal value, after t = ``num_steps``
    steps of size 1/L, g_0 … g_{t−1} being the gradients on the way::

        min_k ‖g_k‖² ≤ 2 L (f_0 − f*) / t

    Args:
      lipschitz: L, a bound on the eigenvalues of the Hessian wherever the iterates go.
      initial_value: f_0, the loss at the start.
      optimal_value: f*, the least value of the loss, or anything below.
      num_steps: t, at least 1; may be an array.

    Returns:
      The bound on the squared norm, in the shape of the arguments. ``jvp``, ``vjp`` and ``vmap``
      are supported.

    Example:
      >>> from hyperlr.curvature import gradient_norm_bound
      >>> print(gradient_norm_bound(3.0, initial_value=6.0, optimal_value=0.0, num_steps=9))
      4.0

    References:
      Boyd and Vandenberghe, "Convex optimization", 2004, Section 9.3.
    """
    return jnp.asarray(2.0 * lipschitz * (initial_value - optimal_value) / num_steps)
