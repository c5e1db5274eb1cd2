"""States of :func:`hyperlr.online`, wherever they are inside an optimizer's, started anew."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperlr._state import OnlineState
from hyperlr.rules._adaptive_sgd import AdaptiveSgdState
from hyperlr.rules._exponentiated_gradient import ExponentiatedGradientState


def is_online(node: Any) -> bool:
    """Whether a node of a tree is a state of :func:`hyperlr.online`."""
    return isinstance(node, OnlineState)


def without_tangents(opt_state: optax.OptState) -> optax.OptState:
    """``opt_state`` without Z and B: what it takes to start anew from there."""
    return jax.tree.map(
        lambda node: node._replace(tangent={}, direct={}) if is_online(node) else node,
        opt_state,
        is_leaf=is_online,
    )


def restarted(opt_state: optax.OptState, like: optax.OptState, factor: jax.Array) -> optax.OptState:
    """What :func:`without_tangents` left, as before a first step: Z = 0, and the rates cut.

    Args:
      opt_state: from :func:`without_tangents`.
      like: a whole state, for the shapes of its tangents.
      factor: multiplies η, and the step sizes of the rules of this library.
    """

    def restart(node: Any, whole: Any) -> Any:
        if not is_online(node):
            return node
        learning_rate = {
            name: factor.astype(value.dtype) * value
            for name, value in node.hyperparams.items()
            if name == "learning_rate"
        }
        return node._replace(
            step_count=jnp.zeros_like(node.step_count),
            hyperparams=node.hyperparams | learning_rate,
            hypergradient=optax.tree.zeros_like(node.hypergradient),
            discount=optax.tree.zeros_like(node.discount),
            horizon=optax.tree.zeros_like(node.horizon),
            tangent=optax.tree.zeros_like(whole.tangent),
            direct=optax.tree.zeros_like(whole.direct),
            hyper_state=_cut_rules(node.hyper_state, factor),
        )

    return jax.tree.map(restart, opt_state, like, is_leaf=is_online)


def _cut_rules(hyper_state: optax.OptState, factor: jax.Array) -> optax.OptState:
    """The state of a hyper-optimizer with β, γ and κ cut, and no previous Δη."""

    def scaled(step_sizes: Any) -> Any:
        return jax.tree.map(lambda x: factor.astype(x.dtype) * x, step_sizes)

    def cut(node: Any) -> Any:
        if isinstance(node, ExponentiatedGradientState):
            return node._replace(hyper_learning_rate=scaled(node.hyper_learning_rate))
        if isinstance(node, AdaptiveSgdState):
            return AdaptiveSgdState(
                hyper_learning_rate=scaled(node.hyper_learning_rate),
                meta_learning_rate=scaled(node.meta_learning_rate),
                hypergradient=optax.tree.zeros_like(node.hypergradient),
            )
        return node

    return jax.tree.map(
        cut,
        hyper_state,
        is_leaf=lambda node: isinstance(node, AdaptiveSgdState | ExponentiatedGradientState),
    )
