"""The largest curvature of a loss in any direction, by the Lanczos method."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from hyperlr._trees import accumulation_dtype
from hyperlr.curvature._hvp import hvp
from hyperlr.curvature._step_size import rayleigh_quotient

Tree = Any


def lipschitz_constant(
    value_fn: Callable[[Tree], jax.Array],
    params: Tree,
    *,
    tolerance: float | jax.Array = 1e-4,
    max_iterations: int = 64,
    key: jax.Array | None = None,
) -> jax.Array:
    """The largest size of an eigenvalue of the Hessian, to a relative tolerance.

    With H the Hessian of ``value_fn`` at ``params``::

        L = max |λ(H)| = max_v |vᵀHv| / vᵀv

    which is the Lipschitz constant of the gradient near ``params``: gradient descent with a step
    below 2/L descends. Only products H v are formed, one an iteration.

    An iteration extends an orthonormal basis of products by one vector. The eigenvalues θ of H
    within the basis have residuals r, so that each interval θ ± r contains an eigenvalue of H. The
    method stops when the two outermost intervals end within ``(1 + tolerance) · max |θ|``.

    Args:
      value_fn: a scalar function of the parameters, twice differentiable.
      params: a pytree of floating-point arrays, n entries in all.
      tolerance: relative to L; about 1e-6 is what float32 can resolve.
      max_iterations: at most so many products. The basis takes max_iterations · n numbers.
      key: for the random first vector; by default always the same.

    Returns:
      L, a scalar in at least float32, and 0 where H = 0 or there are no parameters. Where
      ``max_iterations`` were too few it is too small, never too large. ``jvp`` and ``vjp`` hold
      where the eigenvalue is simple, at the cost of one product; ``vmap`` is supported.

    Raises:
      ValueError: ``max_iterations`` is less than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from hyperlr.curvature import lipschitz_constant
      >>> loss = lambda w: 0.5 * jnp.sum(jnp.array([1.0, 2.0, -3.0]) * w**2)
      >>> print(lipschitz_constant(loss, jnp.ones(3)).round(4))
      3.0

    References:
      Lanczos, "An iteration method for the solution of the eigenvalue problem of linear
      differential and integral operators", 1950; Parlett, "The symmetric eigenvalue problem", 1980.
    """
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")
    flat, unravel = ravel_pytree(params)
    dtype = accumulation_dtype(params)
    if flat.size == 0:
        return jnp.zeros((), dtype)

    def product(vector: jax.Array) -> jax.Array:
        image = hvp(value_fn, params, unravel(vector.astype(flat.dtype)))
        return ravel_pytree(image)[0].astype(dtype)

    start = jax.random.normal(jax.random.key(0) if key is None else key, flat.shape, dtype)
    # The search is not differentiated: at an eigenvector v of a simple eigenvalue λ, the derivative
    # of λ is that of vᵀHv at fixed v. What the search closes over becomes an argument, so that
    # derivatives can be stopped there.
    product, closed_over = jax.closure_convert(product, start)
    vector = _dominant_eigenvector(
        lambda v: product(v, *jax.lax.stop_gradient(closed_over)),
        start,
        tolerance,
        min(max_iterations, flat.size),
    )
    return jnp.abs(rayleigh_quotient(value_fn, params, unravel(vector.astype(flat.dtype))))


class _LanczosState(NamedTuple):
    """The basis and the products of H within it, a tridiagonal matrix.

    Attributes:
      size: number of basis vectors whose product is known, int32, shape ().
      basis: orthonormal rows, [max_iterations + 1, n]; zero from row ``size`` + 1 on.
      diagonal: [max_iterations].
      off_diagonal: [max_iterations]; the entry at k couples rows k and k + 1.
      coefficients: of the eigenvector in the basis, [max_iterations].
      converged: bool, shape ().
    """

    size: jax.Array
    basis: jax.Array
    diagonal: jax.Array
    off_diagonal: jax.Array
    coefficients: jax.Array
    converged: jax.Array


def _dominant_eigenvector(
    product: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    tolerance: float | jax.Array,
    max_iterations: int,
) -> jax.Array:
    """A unit vector [n] of the eigenvalue of largest size."""
    dtype = start.dtype

    def unfinished(state: _LanczosState) -> jax.Array:
        return jnp.logical_not(state.converged) & (state.size < max_iterations)

    def extend(state: _LanczosState) -> _LanczosState:
        k, basis = state.size, state.basis
        image = product(basis[k])
        diagonal = state.diagonal.at[k].set(jnp.vdot(basis[k], image))
        # Against all vectors, not the last two alone, and twice: rounding would otherwise bring
        # the converged directions back, and with them copies of their eigenvalues.
        for _ in range(2):
            image = image - (basis @ image) @ basis
        norm = jnp.linalg.norm(image)
        matrix = (
            jnp.diag(diagonal)
            + jnp.diag(state.off_diagonal[:-1], 1)
            + jnp.diag(state.off_diagonal[:-1], -1)
        )
        values, vectors = jnp.linalg.eigh(matrix)
        largest = jnp.argmax(jnp.abs(values))
        reach = jnp.abs(values) + norm * jnp.abs(vectors[k])
        return _LanczosState(
            size=k + 1,
            basis=basis.at[k + 1].set(image / jnp.where(norm > 0, norm, 1.0)),
            diagonal=diagonal,
            off_diagonal=state.off_diagonal.at[k].set(norm),
            coefficients=vectors[:, largest],
            converged=jnp.maximum(reach[0], reach[-1])
            <= (1.0 + tolerance) * jnp.abs(values[largest]),
        )

    first = _LanczosState(
        size=jnp.zeros((), jnp.int32),
        basis=jnp.zeros((max_iterations + 1, start.size), dtype)
        .at[0]
        .set(start / jnp.linalg.norm(start)),
        diagonal=jnp.zeros(max_iterations, dtype),
        off_diagonal=jnp.zeros(max_iterations, dtype),
        coefficients=jnp.zeros(max_iterations, dtype),
        converged=jnp.zeros((), bool),
    )
    last = jax.lax.while_loop(unfinished, extend, first)
    return last.coefficients @ last.basis[:-1]
