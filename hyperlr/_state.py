"""What an online method remembers from step to step, and how to find it in any wrapper."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import optax

from hyperlr._trees import Tree


@jax.tree_util.register_pytree_with_keys_class
class PerName(Mapping):
    """An immutable dict with one entry for each hyperparameter, by its name.

    It is no ``dict``, so that ``optax.tree.get(state, "learning_rate")`` does not take what belongs
    to the learning rate (its hypergradient, its tangent) for the learning rate itself.
    """

    def __init__(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]]):
        """Holds ``items``, sorted by name like the leaves of a dict."""
        self._items = dict(sorted(dict(items).items()))

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"PerName({self._items!r})"

    def tree_flatten_with_keys(self) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        """The entries as children, which JAX calls ``.name``."""
        keyed = tuple((jax.tree_util.GetAttrKey(name), x) for name, x in self._items.items())
        return keyed, tuple(self._items)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], children: Iterable[Any]) -> "PerName":
        """The inverse of :meth:`tree_flatten_with_keys`."""
        return cls(zip(names, children, strict=True))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Settings:
    """What is fixed when a method is built, and must be known where its derivatives are taken.

    It is part of the structure of the state and has no leaves.

    Attributes:
      every: the tangent and the hyperparameters move at every so many steps, or at those for which
        it returns true.
      hvp: how products with the Hessian are computed.
      loss_hyperparams: names of the hyperparameters that are the loss's.
      needs_product: whether the method uses products with the Hessian at all.
      finds_first_rate: whether the first update looks for the learning rate to begin with.
      rates: names of the hyperparameters that the update is proportional to.
    """

    every: int | Callable[[jax.Array], jax.Array] = 1
    hvp: str = "forward_over_reverse"
    loss_hyperparams: tuple[str, ...] = ()
    needs_product: bool = True
    finds_first_rate: bool = False
    # What follows from all else, and from the parameters: a state of other ones, such as those that
    # optax.tree_utils.tree_map_params puts in their place, has the same structure.
    rates: tuple[str, ...] = dataclasses.field(default=(), compare=False)


class Tangent(NamedTuple):
    """Derivative of parameters and optimizer state with respect to one hyperparameter.

    Attributes:
      params: like the parameters, in at least float32; ``None`` for leaves that are not
        floating-point, and for those that no hyperparameter can move.
      inner_state: likewise of the inner optimizer's state; ``None`` where it is not needed.
    """

    params: Tree
    inner_state: Tree


class Average(NamedTuple):
    """The averaged iterate and its tangents.

    Attributes:
      step_count: int32, the number of updates so far.
      params: w̄, like the parameters.
      tangent: Z̄, the parameters' part of it, one for each name, in at least float32.
    """

    step_count: jax.Array
    params: Tree
    tangent: PerName


class Bound(NamedTuple):
    """What the tangents are held below, so that their noise cannot grow without end.

    Attributes:
      distance: the discounted length of the way that the parameters went, one for each name.
      excess: the logarithm of the factor that the last tangent was too long by, one for each name.
    """

    distance: PerName
    excess: PerName


class OnlineState(NamedTuple):
    """State of :func:`hyperlr.online`. Scalars have shape () and at least float32.

    Attributes:
      settings: what is fixed; without leaves.
      awaits_rate: bool, whether ``learning_rate`` is still a factor of a first rate that is to be
        found; ``None`` where none is looked for.
      step_count: int32, the number of updates since Z was 0: at the start, or after a rollback of
        :func:`hyperlr.guard`.
      hyperparams: η of the last update, a dict of scalars.
      lower: the lower bound of every η; where :func:`hyperlr.guard` cuts a rate, it gives way.
      hypergradient: Δη of the last update, one for each name; 0 where it was not finite.
      discount: μ of the last update, one for each name.
      horizon: c of the last update, one for each name.
      num_restarts: int32, how often Δη was not finite and the tangent started anew.
      tangent: Z for the next update, one for each name.
      direct: the parameters' part of the last B, one for each name; empty unless μ adapts.
      average: w̄ and Z̄; ``None`` where no average is kept.
      bound: of ‖Z‖; ``None`` where there is none.
      inner_state: state of the inner optimizer.
      hyper_state: state of the hyper-optimizer.
    """

    settings: Settings
    awaits_rate: jax.Array | None
    step_count: jax.Array
    hyperparams: dict[str, jax.Array]
    lower: PerName
    hypergradient: PerName
    discount: PerName
    horizon: PerName
    num_restarts: jax.Array
    tangent: PerName
    direct: PerName
    average: Average | None
    bound: Bound | None
    inner_state: optax.OptState
    hyper_state: optax.OptState


def is_online(node: Any) -> bool:
    """Whether a node of a tree is a state of :func:`hyperlr.online`."""
    return isinstance(node, OnlineState)


def online_states(opt_state: optax.OptState) -> list[OnlineState]:
    """The states of online methods inside any optimizer's state, outermost ones only.

    What :func:`hyperlr.guard` keeps to come back to has no tangents, and is left out.
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=is_online)
    return [node for node in nodes if is_online(node) and node.tangent]


def is_due(state: OnlineState) -> jax.Array | bool:
    """Whether the next update moves the tangent, and so needs its derivatives."""
    every = state.settings.every
    if callable(every):
        return (state.step_count == 0) | every(state.step_count)
    return True if every == 1 else state.step_count % every == 0
