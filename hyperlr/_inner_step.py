"""The inner step Φ, a function of parameters, optimizer state and hyperparameters, differentiated.

One step of training maps (w, s, η) to Φ(w, s, η) = (w + u, s′), where u and s′ come from the inner
optimizer's ``update``. Its derivatives are A = ∂Φ/∂(w, s), of which only products with tangents are
ever formed, and B = ∂Φ/∂η, one tangent for each hyperparameter ([P] Eq. 3).

Only floating-point leaves have derivatives. Everything here that stands for a derivative has
``None`` in place of the other leaves (step counts, random keys).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperlr import _trees
from hyperlr._trees import Tree

Hyperparams = dict[str, jax.Array]


class Tangent(NamedTuple):
    """Derivative of parameters and optimizer state with respect to one hyperparameter.

    Attributes:
      params: like the parameters, in their shapes and dtypes.
      inner_state: like the inner optimizer's state; ``None`` where only ``params`` is needed.
    """

    params: Tree
    inner_state: Tree


def inner_step(
    inner: Callable[..., optax.GradientTransformation],
    extra_args: Mapping[str, Any],
    hyperparams: Hyperparams,
    grads: Tree,
    inner_state: Tree,
    params: Tree,
) -> tuple[Tree, Tree]:
    """The update u in the dtypes of ``grads``, and s′ in the dtypes of ``inner_state``."""
    # Hyperparameters of float32 meet parameters of any dtype: our mixture, not the user's.
    with jax.numpy_dtype_promotion("standard"):
        transformation = optax.with_extra_args_support(inner(**hyperparams))
        updates, new_state = transformation.update(grads, inner_state, params, **extra_args)
    return _trees.cast_like(updates, grads), _trees.cast_like(new_state, inner_state)


def direct_tangents(
    step: Callable[[Hyperparams], tuple[Tree, Tree]], hyperparams: Hyperparams
) -> tuple[tuple[Tree, Tree], dict[str, Tangent]]:
    """The inner step's (u, s′), and B = ∂Φ/∂η for every hyperparameter η of the optimizer.

    ``step`` is a function of the hyperparameters alone. Were the gradients given a tangent too,
    even a zero one, a √v at v = 0 inside the optimizer would make it 0 · ∞.
    """

    def differentiable(hyperparams: Hyperparams) -> tuple[Tangent, tuple[Tree, Tree]]:
        result = step(hyperparams)
        return Tangent(*map(_trees.floats_of, result)), result

    _, push, result = jax.linearize(differentiable, hyperparams, has_aux=True)
    directions = {
        name: {other: jnp.full_like(value, other == name) for other, value in hyperparams.items()}
        for name in hyperparams
    }
    return result, {name: push(direction) for name, direction in directions.items()}


def loss_tangents(
    step: Callable[[Tree], tuple[Tree, Tree]],
    grads: Tree,
    value_fn: Callable[[Tree, Hyperparams], jax.Array],
    params: Tree,
    hyperparams: Hyperparams,
) -> dict[str, Tangent]:
    """B for hyperparameters of the loss, which act through the gradients: ∂Φ/∂g ∂²L/∂w∂η.

    ``step`` is a function of the gradients alone.
    """

    def differentiable(floats: Tree) -> Tangent:
        return Tangent(*map(_trees.floats_of, step(_trees.with_floats(grads, floats))))

    def partial_derivative(floats: Tree, name: str) -> jax.Array:
        return jax.grad(value_fn, argnums=1)(_trees.with_floats(params, floats), hyperparams)[name]

    # In this order of the two derivatives, the network drops out of the weight of a penalty.
    mixed = {
        name: jax.grad(partial_derivative)(_trees.floats_of(params), name) for name in hyperparams
    }
    _, push = jax.linearize(differentiable, _trees.floats_of(grads))
    return {
        name: push(_trees.cast_like(grads_dot, _trees.floats_of(grads)))
        for name, grads_dot in mixed.items()
    }


def propagated_tangents(
    step: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]],
    grads: Tree,
    inner_state: Tree,
    params: Tree,
    tangents: dict[str, Tangent],
    hessian_product: Callable[[Tree], Tree],
) -> dict[str, Tangent]:
    """A Z for every tangent Z: a Hessian-vector product, then the linearized inner step.

    ``step`` is a function of gradients, inner state and parameters; ``hessian_product`` maps the
    parameters' part of Z to the tangent of the gradients. Both are linearized once for all
    tangents, which then go one by one: stacked and vmapped they take more time and memory (1.6
    times and 4 times for three tangents of a 784-500-500-500-10 network on CPU), because copying
    a stack of parameters costs more than a batched matmul saves.
    """
    at = (grads, inner_state, params)

    def differentiable(*floats: Tree) -> Tangent:
        return Tangent(*map(_trees.floats_of, step(*map(_trees.with_floats, at, floats))))

    _, push = jax.linearize(differentiable, *map(_trees.floats_of, at))

    def propagate(tangent: Tangent) -> Tangent:
        grads_dot = _trees.cast_like(hessian_product(tangent.params), _trees.floats_of(grads))
        stepped = push(grads_dot, tangent.inner_state, tangent.params)
        # Φ adds the update to the parameters, so their own tangent passes through.
        moved = jax.tree.map(jnp.add, tangent.params, stepped.params)
        return Tangent(_trees.cast_like(moved, tangent.params), stepped.inner_state)

    return {name: propagate(tangent) for name, tangent in tangents.items()}
