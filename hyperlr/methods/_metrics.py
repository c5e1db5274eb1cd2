"""The numbers worth logging, out of any optimizer state that contains one of ours."""

from typing import Any

import jax
import optax

from hyperlr._state import OnlineState
from hyperlr.methods._guard import GuardState


def metrics(opt_state: optax.OptState) -> dict[str, jax.Array]:
    """The learned hyperparameters and what moved them, as of the last update.

    Args:
      opt_state: the state of a transformation of hyperlr, or of a chain or wrapper around it.

    Returns:
      A flat dict of scalars (or arrays with leading axes, for a state under ``vmap``):
      ``learning_rate`` (η), ``hypergradient`` (Δη), ``discount`` (μ), ``horizon`` (c) and, where
      the hyper-optimizer has one, ``hyper_learning_rate`` (β). With several hyperparameters, each
      is under its own name, and the others are ``hypergradient/momentum`` and so on.
      ``num_restarts`` (int32) counts the steps whose hypergradient was not finite: η stayed, and
      the tangent started anew.
      :func:`hyperlr.guard` adds the counts ``num_rollbacks`` and ``num_explosions``. If the state
      has more than one part of hyperlr's, each key begins with the path to that part.

    Raises:
      ValueError: ``opt_state`` contains no state of hyperlr.

    Example:
      >>> import jax.numpy as jnp, optax, hyperlr
      >>> tx = optax.chain(optax.clip(1.0), hyperlr.hd(optax.sgd, 0.1, 1e-3))
      >>> for name in sorted(hyperlr.metrics(tx.init(jnp.ones(3)))):
      ...     print(name)
      discount
      horizon
      hyper_learning_rate
      hypergradient
      learning_rate
      num_restarts
    """
    found = _parts(opt_state)
    if not found:
        raise ValueError(
            "opt_state contains no state of hyperlr: pass the state of a transformation made by "
            f"hyperlr.hd, rtho, marthe, online or guard, got {type(opt_state).__name__}"
        )
    return _flat(found)


def _parts(opt_state: optax.OptState) -> list[tuple[str, OnlineState | GuardState]]:
    """The states of hyperlr, outermost ones only, each with its path."""

    def is_ours(node: Any) -> bool:
        return isinstance(node, OnlineState | GuardState)

    return [
        (jax.tree_util.keystr(path), node)
        for path, node in jax.tree_util.tree_leaves_with_path(opt_state, is_leaf=is_ours)
        if is_ours(node)
    ]


def _flat(found: list[tuple[str, OnlineState | GuardState]]) -> dict[str, jax.Array]:
    if len(found) == 1:
        return _metrics_of(found[0][1])
    return {f"{path}/{key}": x for path, node in found for key, x in _metrics_of(node).items()}


def _metrics_of(state: OnlineState | GuardState) -> dict[str, jax.Array]:
    if isinstance(state, GuardState):
        counts = {
            "num_rollbacks": state.num_rollbacks,
            "num_explosions": state.num_explosions,
        }
        return counts | _flat(_parts(state.inner_state))
    per_name: dict[str, Any] = {
        "hypergradient": state.hypergradient,
        "discount": state.discount,
        "horizon": state.horizon,
    }
    rules = jax.tree.leaves(
        state.hyper_state, is_leaf=lambda node: hasattr(node, "hyper_learning_rate")
    )
    for rule in rules:
        if hasattr(rule, "hyper_learning_rate"):
            per_name["hyper_learning_rate"] = rule.hyper_learning_rate
    flat = dict(state.hyperparams) | {"num_restarts": state.num_restarts}
    for key, values in per_name.items():
        for name, value in values.items():
            flat[key if len(state.hyperparams) == 1 else f"{key}/{name}"] = value
    return flat
