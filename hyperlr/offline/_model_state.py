"""Losses and objectives of models with a state beside their parameters, and of those without."""

from collections.abc import Callable
from typing import Any

import jax

from hyperlr import _checks, _trees
from hyperlr._trees import Tree

# (params, model_state, batch) ↦ (loss, model_state)
StatefulLoss = Callable[[Tree, Tree, Any], tuple[jax.Array, Tree]]


def stateful_loss(loss_fn: Callable[..., Any], model_state: Tree) -> StatefulLoss:
    """``loss_fn`` as a function of a model state, whether it has one (not ``None``) or not.

    The state that it returns is checked against the one that it was given and brought to its
    dtypes, so that it is a ``lax.scan`` carry.
    """
    if model_state is None:
        return _without_state(loss_fn)

    def loss(params: Tree, state: Tree, batch: Any) -> tuple[jax.Array, Tree]:
        result = loss_fn(params, state, batch)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                "with model_state, loss_fn(params, model_state, batch) must return a pair, the "
                f"loss and the model_state of the next step, got {result!r}"
            )
        value, new_state = result
        _checks.check_scalar_loss("loss_fn", value)
        _checks.check_same_tree(
            "the model_state that loss_fn returns", new_state, "the one that it is given", state
        )
        return value, _trees.cast_like(new_state, state)

    return loss


def _without_state(loss_fn: Callable[..., Any]) -> StatefulLoss:
    def loss(params: Tree, state: Tree, batch: Any) -> tuple[jax.Array, Tree]:
        value = loss_fn(params, batch)
        if isinstance(value, tuple):
            raise TypeError(
                "loss_fn must return a scalar, the loss alone, got a tuple of "
                f"{len(value)}: where the rest is a state of the model that training moves, such "
                "as running statistics, pass model_state= with its first value, and "
                "loss_fn(params, model_state, batch) that returns (loss, model_state); leave out "
                "what is neither"
            )
        _checks.check_scalar_loss("loss_fn", value)
        return value, state

    return loss


def objective_value(
    objective_fn: Callable[..., jax.Array], params: Tree, model_state: Tree
) -> jax.Array:
    """E at ``params``, and at ``model_state`` where there is one."""
    value = objective_fn(params) if model_state is None else objective_fn(params, model_state)
    _checks.check_scalar_loss("objective_fn", value)
    return value
