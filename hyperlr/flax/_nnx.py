"""The extra arguments of ``nnx.Optimizer.update``, from a loss on an nnx model.

An nnx loss changes the model that it is called on: batch normalization moves its running statistics
and dropout counts its keys. What is differentiated must change nothing, so every evaluation here is
of a copy of the model, made inside the function that is differentiated.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

import hyperlr

Loss = Callable[..., Any]


def value_fn(
    loss_fn: Loss,
    model: nnx.Module,
    *args: Any,
    wrt: Any = nnx.Param,
    has_aux: bool = False,
    **kwargs: Any,
) -> Callable[..., jax.Array]:
    """The training loss on one minibatch as a function of the parameters alone.

    It is L of :func:`hyperlr.online`: ``L(w) = loss_fn(model with parameters w, *args)``. The
    model's other state (dropout keys, running statistics) and its mode are those of the moment of
    this call, at every evaluation, and nothing is written back. Call it **before** the pass that
    computes the gradients: that pass advances the dropout keys, and the Hessian-vector product must
    see the network that the gradient was taken of.

    Args:
      loss_fn: the loss that the gradients are taken of, ``loss_fn(model, *args, **kwargs)``.
      model: the nnx model, about to be trained on.
      *args: what else the loss takes, such as the minibatch; ``nnx.Rngs`` are copied, too.
      wrt: filter of the parameters, the one given to ``nnx.Optimizer``; default ``nnx.Param``.
      has_aux: whether the loss returns (value, auxiliary); default False.
      **kwargs: keyword arguments of the loss.

    Returns:
      A function of the parameters, for ``optimizer.update(model, grads, value_fn=...)``. Further
      positional arguments (hyperparameters of the loss) are handed on to ``loss_fn``, last.

    Example:
      >>> import hyperlr.flax, jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
      >>> tx = hyperlr.marthe(optax.sgd, 0.1, meta_learning_rate=1e-3)
      >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
      >>> loss_fn = lambda model, x: jnp.mean((model(x) - 1.0) ** 2)
      >>> x, x_val = jnp.ones((4, 2)), jnp.ones((4, 2)) / 2
      >>> for _ in range(10):
      ...     value_fn = hyperlr.flax.value_fn(loss_fn, model, x)
      ...     val_grad = hyperlr.flax.val_grad(loss_fn, model, x_val)
      ...     loss, grads = nnx.value_and_grad(loss_fn)(model, x)
      ...     updates = optimizer.update(model, grads, value_fn=value_fn, val_grad=val_grad)
      >>> float(hyperlr.flax.metrics(optimizer)["learning_rate"]) == 0.1
      False

    References:
      Donini et al., 2020, Algorithm 1; "Flax NNX", ``nnx.Optimizer``, from Flax 0.11.
    """
    graph, *states = nnx.split(model, wrt, ...)
    # Variables are changed in place, arrays are not: new variables hold on to this moment's arrays.
    rest, args, kwargs = _copy((states[1], args, kwargs))

    def of_params(params: Any, *loss_hyperparams: Any) -> jax.Array:
        # Copied again at every evaluation: variables can be written only under the trace (of
        # jax.grad, of jax.jvp) that they were made under, and no evaluation may see another's.
        state, positional, named = _copy((rest, args, kwargs))
        result = loss_fn(
            nnx.merge(graph, _copy(params), state), *positional, *loss_hyperparams, **named
        )
        return result[0] if has_aux else result

    return of_params


def val_grad(
    loss_fn: Loss,
    model: nnx.Module,
    *args: Any,
    wrt: Any = nnx.Param,
    has_aux: bool = False,
    batch_statistics: bool = False,
    **kwargs: Any,
) -> nnx.State:
    """The gradient of the objective E on a validation batch; the model is left as it is.

    ``∇E(w)`` of :func:`hyperlr.online`. The model is evaluated as it would be in use: without
    dropout, and with batch normalization by the running statistics, which are read and never
    written. Their own dependence on the parameters is not followed; with ``batch_statistics`` the
    validation batch is normalized by its own, and E is a function of the parameters alone.

    Args:
      loss_fn: the objective, ``loss_fn(model, *args, **kwargs)``: no regularization in it, which
        belongs to the training loss (or the optimizer) alone.
      model: the nnx model, at the parameters that the step starts from.
      *args: what else the objective takes, such as the validation batch.
      wrt: filter of the parameters, the one given to ``nnx.Optimizer``; default ``nnx.Param``.
      has_aux: whether the objective returns (value, auxiliary); default False.
      batch_statistics: normalize by the validation batch's own statistics; default False.
      **kwargs: keyword arguments of the objective.

    Returns:
      The gradient, an ``nnx.State`` like that of ``nnx.grad``, for
      ``optimizer.update(model, grads, val_grad=...)``.

    Example:
      >>> import hyperlr.flax, jax.numpy as jnp
      >>> from flax import nnx
      >>> model = nnx.BatchNorm(1, rngs=nnx.Rngs(0))
      >>> loss_fn = lambda model, x: jnp.mean(model(x) ** 2)
      >>> grad = hyperlr.flax.val_grad(loss_fn, model, jnp.full((4, 1), 3.0))
      >>> print(f"{grad['scale'][...][0]:.1f}, {model.mean[...][0]:.1f}")  # 2 · 3², and not moved
      18.0, 0.0

    References:
      Donini et al., 2020, Section 6: E is the unregularized loss on held-out data.
    """
    graph, *states = nnx.split(model, wrt, ...)

    def objective(params: nnx.State) -> jax.Array:
        state, positional, named = _copy((states[1], args, kwargs))
        copy = nnx.merge(graph, _copy(params), state)
        copy.eval()
        if batch_statistics:
            copy.set_attributes(use_running_average=False, raise_if_not_found=False)
        result = loss_fn(copy, *positional, **named)
        return result[0] if has_aux else result

    return jax.grad(objective)(states[0])


def value_and_grad(
    loss_fn: Loss, has_aux: bool = False, share: float = 1.0, *, wrt: Any = nnx.Param
) -> Callable[..., tuple[Any, nnx.State, dict[str, Any]]]:
    """:func:`hyperlr.value_and_grad` for a loss on an nnx model, in place of nnx's own.

    The training pass is taken once: it moves running statistics and counts dropout keys, as
    ``nnx.value_and_grad`` does, and the derivative along the tangents is of that same pass.

    Args:
      loss_fn: the training loss, ``loss_fn(model, batch, *rest)``.
      has_aux: whether it returns (loss, auxiliary); default False.
      share: the part of the batch that products with the Hessian are taken on; default 1.
      wrt: filter of the parameters, the one given to ``nnx.Optimizer``; default ``nnx.Param``.

    Returns:
      A function ``(model, batch, *rest, optimizer, val_batch=None) -> (value, grads, extra)``, for
      ``optimizer.update(model, grads, **extra)``. On ``val_batch`` the model is evaluated as
      :func:`val_grad` does: without dropout, by its running statistics.

    Raises:
      TypeError, ValueError: as :func:`hyperlr.value_and_grad`.

    Example:
      >>> import hyperlr, hyperlr.flax, jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
      >>> tx = hyperlr.marthe(optax.sgd, 0.1, meta_learning_rate=1e-3)
      >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
      >>> loss_fn = lambda model, x: jnp.mean((model(x) - 1.0) ** 2)
      >>> x = jnp.ones((4, 2))
      >>> for _ in range(10):
      ...     value, grads, extra = hyperlr.flax.value_and_grad(loss_fn)(
      ...         model, x, optimizer=optimizer
      ...     )
      ...     updates = optimizer.update(model, grads, **extra)
      >>> float(hyperlr.flax.metrics(optimizer)["learning_rate"]) == 0.1
      False

    References:
      As :func:`hyperlr.value_and_grad`.
    """

    def evaluate(
        model: nnx.Module, batch: Any, *rest: Any, optimizer: nnx.Optimizer, val_batch: Any = None
    ) -> tuple[Any, nnx.State, dict[str, Any]]:
        graph, *states = nnx.split(model, wrt, ...)
        params, others = states
        state = _pure(optimizer.opt_state)

        def functional(pure: Any, batch: Any, *rest: Any) -> tuple[Any, Any]:
            copy = nnx.merge(graph, _like(pure, params), _copy(others))
            result = loss_fn(copy, batch, *rest)
            loss, aux = result if has_aux else (result, None)
            return loss, (aux, jax.tree.leaves(nnx.state(copy, nnx.Not(wrt))))

        (loss, (aux, moved)), grads, extra = hyperlr.value_and_grad(functional, True, share)(
            _pure(params), batch, *rest, state=state
        )
        if val_batch is not None:
            averaged = _like(hyperlr.eval_params(state, _pure(params)), params)
            at = nnx.merge(graph, averaged, _copy(others))
            objective = val_grad(loss_fn, at, val_batch, *rest, wrt=wrt, has_aux=has_aux)
            extra["val_grad"] = _pure(objective)
        nnx.update(model, jax.tree.unflatten(jax.tree.structure(others), moved))
        return (loss, aux) if has_aux else loss, _like(grads, params), extra

    return evaluate


def eval_params(optimizer: nnx.Optimizer, model: nnx.Module, *, wrt: Any = nnx.Param) -> nnx.State:
    """:func:`hyperlr.eval_params` for an nnx model, as a state to put into it.

    Args:
      optimizer: an ``nnx.Optimizer`` of any transformation.
      model: the model that it trains, which is left as it is.
      wrt: filter of the parameters, the one given to ``nnx.Optimizer``; default ``nnx.Param``.

    Returns:
      The averaged parameters, where an average is kept, else the model's own, for
      ``nnx.update(model, hyperlr.flax.eval_params(optimizer, model))``. Running statistics belong
      to the parameters that made them: :func:`recompute_statistics` after that.

    Example:
      >>> import hyperlr, hyperlr.flax, optax
      >>> from flax import nnx
      >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
      >>> optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
      >>> nnx.update(model, hyperlr.flax.eval_params(optimizer, model))
    """
    params = nnx.state(model, wrt)
    return _like(hyperlr.eval_params(_pure(optimizer.opt_state), _pure(params)), params)


def metrics(optimizer: nnx.Optimizer) -> dict[str, jax.Array]:
    """The learned hyperparameters and what moved them: :func:`hyperlr.metrics` as plain arrays.

    Args:
      optimizer: an ``nnx.Optimizer`` of a transformation of hyperlr.

    Returns:
      A flat dict of scalars, as :func:`hyperlr.metrics`; ``nnx.Optimizer`` keeps its state in
      variables, and these are the arrays inside.

    Raises:
      ValueError: the transformation is none of hyperlr's.

    Example:
      >>> import hyperlr.flax, optax
      >>> from flax import nnx
      >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
      >>> optimizer = nnx.Optimizer(model, hyperlr.hd(optax.sgd, 0.1, 1e-3), wrt=nnx.Param)
      >>> print(f"{hyperlr.flax.metrics(optimizer)['learning_rate']:.1f}")
      0.1
    """
    found = hyperlr.metrics(optimizer.opt_state)
    return {name: jax.tree.leaves(value)[0] for name, value in found.items()}


def _copy(tree: Any) -> Any:
    """``tree`` with new nnx variables around the same arrays."""
    return jax.tree.map(lambda leaf: leaf, tree)


def _pure(tree: Any) -> Any:
    """``tree`` with the arrays inside its nnx variables in their place."""

    def is_variable(node: Any) -> bool:
        return isinstance(node, nnx.Variable)

    return jax.tree.map(
        lambda x: jax.tree.leaves(x)[0] if is_variable(x) else x, tree, is_leaf=is_variable
    )


def _like(pure: Any, tree: Any) -> Any:
    """The inverse of :func:`_pure`: new variables like those of ``tree``."""
    return jax.tree.unflatten(jax.tree.structure(tree), jax.tree.leaves(pure))
