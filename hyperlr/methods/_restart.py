"""Starting anew from good parameters: what of an optimizer's state is kept, and what is cut.

Momenta start anew, so that only parameters, averages and a few scalars have to be kept to come back
to: counts of schedules, hyperparameters, step sizes. A scalar that goes with momenta, such as the
count that corrects their bias, starts anew with them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperlr import _numbers
from hyperlr._state import OnlineState, is_online
from hyperlr._trees import Tree
from hyperlr.rules._adaptive_sgd import AdaptiveSgdState
from hyperlr.rules._exponentiated_gradient import ExponentiatedGradientState

Path = tuple[Any, ...]


def scalars_of(opt_state: optax.OptState) -> tuple[jax.Array, ...]:
    """What :func:`restarted` takes from a state that was good, beside averages."""
    kept: list[jax.Array] = []

    def keep(scalar: jax.Array) -> jax.Array:
        kept.append(scalar)
        return scalar

    _with_scalars(opt_state, keep)
    return tuple(kept)


def averages_of(opt_state: optax.OptState) -> tuple[Tree, ...]:
    """w̄ of every method that keeps one."""
    return tuple(node.average.params for node in _online(opt_state) if node.average is not None)


def restarted(
    fresh: optax.OptState,
    scalars: tuple[jax.Array, ...],
    averages: tuple[Tree, ...],
    cut: float | jax.Array,
) -> optax.OptState:
    """A state as before a first step, at parameters that were good, with smaller rates.

    Args:
      fresh: the state that a run would begin with there.
      scalars: from :func:`scalars_of`.
      averages: from :func:`averages_of`.
      cut: multiplies the learned rates, and the step sizes of the rules of this library.
    """
    kept, means = iter(scalars), iter(averages)

    def restart(node: Any) -> Any:
        if not is_online(node):
            return node
        average = node.average
        return _with_cut_rates(node, cut)._replace(
            average=None if average is None else average._replace(params=next(means))
        )

    found = _with_scalars(fresh, lambda _: next(kept))
    return jax.tree.map(restart, found, is_leaf=is_online)


def leaves_with_a_rate(opt_state: optax.OptState, params: Tree) -> Tree:
    """For every leaf of ``params``, whether a rate that moves it is learned, as Python bools."""
    paths: set[Path] = set()
    for node in _online(opt_state):
        for name in node.settings.rates:
            moving = node.tangent[name].params
            found = {path for path, _ in jax.tree_util.tree_leaves_with_path(moving)}
            paths |= found
    whole = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    # A wrapper such as optax.flatten shows a method the parameters in another form.
    everything = bool(paths) and not paths <= set(whole)
    return jax.tree_util.tree_map_with_path(lambda path, _: everything or path in paths, params)


def is_finite(opt_state: optax.OptState) -> jax.Array:
    """Whether all arrays of an optimizer's state are finite; derivatives are not looked at.

    Scalars are not either: the best value that an optimizer has seen, for one, begins as ∞.
    """

    def arrays(node: Any) -> Any:
        return arrays_of(node.inner_state) if is_online(node) else node

    def arrays_of(state: Any) -> list[Any]:
        leaves = [arrays(node) for node in jax.tree.leaves(state, is_leaf=is_online)]
        return [x for x in jax.tree.leaves(leaves) if jnp.ndim(x) > 0]

    return _numbers.all_finite(arrays_of(opt_state))


def _online(opt_state: optax.OptState) -> list[OnlineState]:
    return [node for node in jax.tree.leaves(opt_state, is_leaf=is_online) if is_online(node)]


def _with_scalars(opt_state: Any, replace: Callable[[jax.Array], jax.Array]) -> Any:
    """``opt_state`` with the scalars replaced that are kept, in one order whatever their values."""

    def replaced(node: Any) -> Any:
        if is_online(node):
            average = node.average
            if average is not None:  # without its count, the next step would be all of it
                average = average._replace(step_count=replace(average.step_count))
            return node._replace(
                average=average,
                awaits_rate=_each(node.awaits_rate, replace),
                hyperparams=_each(node.hyperparams, replace),
                num_restarts=replace(node.num_restarts),
                inner_state=_with_scalars(node.inner_state, replace),
                hyper_state=_each(node.hyper_state, replace),
            )
        if not _is_state(node):
            return node
        own = [x for x in jax.tree.leaves(tuple(node), is_leaf=_is_state) if not _is_state(x)]
        has_arrays = any(jnp.ndim(x) > 0 for x in own)

        def entry(x: Any) -> Any:
            if _is_state(x):
                return replaced(x)
            if jnp.ndim(x) > 0:
                return x
            # Shown to replace in any case, so that what is kept is the same in number where optax
            # puts placeholders in place of arrays, as optax.tree_utils.tree_map_params does.
            new = replace(x)
            return x if has_arrays else new

        entries = jax.tree.map(entry, tuple(node), is_leaf=_is_state)
        return type(node)(*entries)

    if _is_state(opt_state):
        return replaced(opt_state)
    return jax.tree.map(
        lambda node: replaced(node) if _is_state(node) else node, opt_state, is_leaf=_is_state
    )


def _each(tree: Any, replace: Callable[[jax.Array], jax.Array]) -> Any:
    return jax.tree.map(replace, tree)


def _is_state(node: Any) -> bool:
    """Whether a node is the state of one transformation, which optax makes a NamedTuple."""
    return isinstance(node, tuple) and hasattr(node, "_fields")


def _with_cut_rates(node: OnlineState, cut: float | jax.Array) -> OnlineState:
    """Smaller rates, and step sizes of them; a lower bound gives way, or it would undo the cut."""

    def scaled(x: jax.Array) -> jax.Array:
        return jnp.asarray(cut, x.dtype) * x

    rates = {name: scaled(node.hyperparams[name]) for name in node.settings.rates}
    lower = {name: jnp.minimum(node.lower[name], rate) for name, rate in rates.items()}
    return node._replace(
        hyperparams=node.hyperparams | rates,
        lower=type(node.lower)({**node.lower, **lower}),
        hyper_state=_cut_rules(node.hyper_state, scaled),
    )


def _cut_rules(
    hyper_state: optax.OptState, scaled: Callable[[jax.Array], jax.Array]
) -> optax.OptState:
    """The state of a hyper-optimizer with β, γ and κ cut, and no previous Δη."""

    def cut(node: Any) -> Any:
        if isinstance(node, ExponentiatedGradientState):
            return node._replace(hyper_learning_rate=jax.tree.map(scaled, node.hyper_learning_rate))
        if isinstance(node, AdaptiveSgdState):
            return AdaptiveSgdState(
                hyper_learning_rate=jax.tree.map(scaled, node.hyper_learning_rate),
                meta_learning_rate=jax.tree.map(scaled, node.meta_learning_rate),
                hypergradient=optax.tree.zeros_like(node.hypergradient),
            )
        return node

    return jax.tree.map(
        cut,
        hyper_state,
        is_leaf=lambda node: isinstance(node, AdaptiveSgdState | ExponentiatedGradientState),
    )
