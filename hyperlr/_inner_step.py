"""The inner step Φ, a function of parameters, optimizer state and hyperparameters, differentiated.

One step of training maps (w, s, η) to Φ(w, s, η) = (w + u, s′), where u and s′ come from the inner
optimizer's ``update``. Its derivatives are A = ∂Φ/∂(w, s), of which only products with tangents are
ever formed, and B = ∂Φ/∂η, one tangent for each hyperparameter (Donini et al., 2020, Eq. 3).

Only floating-point leaves have derivatives. Everything here that stands for a derivative has
``None`` in place of the other leaves (step counts, random keys), and of those that no
hyperparameter can move.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperlr import _dependence, _roots, _trees
from hyperlr._state import Tangent
from hyperlr._trees import Tree

Hyperparams = dict[str, jax.Array]
Inner = Callable[..., optax.GradientTransformation]


class Inputs(NamedTuple):
    """What the inner step is a function of, beside the hyperparameters; or tangents of it.

    Attributes:
      grads: the gradients.
      inner_state: s.
      params: w.
      extra: the extra arguments that have a derivative, by name: ``value``, the loss, and ``grad``.
    """

    grads: Tree
    inner_state: Tree
    params: Tree
    extra: dict[str, Tree]


Step = Callable[[Hyperparams, Inputs], tuple[Tree, Tree]]


def inner_step(inner: Inner, extra_args: Mapping[str, Any]) -> Step:
    """Φ: the update u in the dtypes of the gradients, and s′ in the dtypes of s.

    Roots of 0 that the optimizer takes have the derivative 0.
    """

    def step(hyperparams: Hyperparams, inputs: Inputs) -> tuple[Tree, Tree]:
        grads, inner_state, params, extra = inputs
        # Hyperparameters of float32 meet parameters of any dtype: a mixture of our making.
        with jax.numpy_dtype_promotion("standard"):
            transformation = inner(**hyperparams)
            current = _with_injected(inner, hyperparams, inner_state, params)
            accepted = accepted_args(transformation.update, {**extra_args, **extra})
            updates, new_state = transformation.update(grads, current, params, **accepted)
        return _trees.cast_like(updates, grads), _trees.cast_like(new_state, inner_state)

    return _roots.with_flat_roots(step)


def accepted_args(update: Callable[..., Any], extra_args: dict[str, Any]) -> dict[str, Any]:
    """The extra arguments that the signature of ``update`` has a place for."""
    parameters = inspect.signature(update).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return extra_args
    return {name: value for name, value in extra_args.items() if name in parameters}


_INJECTED = (optax.InjectHyperparamsState, optax.InjectStatefulHyperparamsState)


def _with_injected(inner: Inner, hyperparams: Hyperparams, inner_state: Tree, params: Tree) -> Tree:
    """``inner_state`` with what ``optax.inject_hyperparams`` keeps in it at its current value.

    That wrapper reads its hyperparameters from its state, where they are as they were at ``init``.
    """

    def is_injected(node: Any) -> bool:
        return isinstance(node, _INJECTED)

    def injected(hyperparams: Hyperparams) -> list[Tree]:
        leaves = jax.tree.leaves(inner(**hyperparams).init(params), is_leaf=is_injected)
        return [_trees.floats_of(node.hyperparams) for node in leaves if is_injected(node)]

    if not any(map(is_injected, jax.tree.leaves(inner_state, is_leaf=is_injected))):
        return inner_state
    values, structure = jax.tree.flatten(injected(hyperparams))
    depends = _dependence.tangent_dependence(injected, hyperparams)
    fresh = iter(
        jax.tree.unflatten(
            structure, [x if d else None for x, d in zip(values, depends, strict=True)]
        )
    )

    def renewed(node: Any) -> Any:
        if not is_injected(node):
            return node
        return node._replace(hyperparams=_trees.with_floats(node.hyperparams, next(fresh)))

    return jax.tree.map(renewed, inner_state, is_leaf=is_injected)


def _tangent_of(result: tuple[Tree, Tree]) -> Tangent:
    return Tangent(*map(_trees.floats_of, result))


def movable(
    step: Step, hyperparams: Hyperparams, inputs: Inputs, through_grads: bool, needs_product: bool
) -> Tangent:
    """A tree like a tangent, with ``None`` for the leaves that no hyperparameter ever moves.

    Args:
      step: Φ.
      hyperparams: those of the inner optimizer.
      inputs: of the shapes and dtypes that Φ will have; nothing is computed.
      through_grads: whether a hyperparameter of the loss acts on the gradients.
      needs_product: whether products with the Hessian are to be taken, which act on them, too.

    Raises:
      ValueError: the update does not depend on one of the hyperparameters.

    Warns:
      UserWarning: products are to be taken, and the update does not depend on the gradients, or
        only in jumps.
    """
    floats = _trees.floats_of(inputs)

    def differentiable(hyperparams: Hyperparams, floats: Inputs) -> Tangent:
        return _tangent_of(step(hyperparams, _trees.with_floats(inputs, floats)))

    try:
        dependence = _dependence.tangent_dependence(differentiable, hyperparams, floats)
    except (TypeError, ValueError):
        # Some optimizers need extra arguments that only an update has. Nothing is left out then;
        # an error that has another reason comes again in the first update.
        return Tangent(floats.params, floats.inner_state)
    index = iter(range(len(jax.tree.leaves((hyperparams, floats)))))
    of_hyper, of_inputs = jax.tree.map(lambda _: next(index), (hyperparams, floats))
    of_grads = set(jax.tree.leaves((of_inputs.grads, of_inputs.extra)))
    of_params = jax.tree.leaves(of_inputs.params)
    # Wherever a parameter moves, the gradients may change everywhere.
    of_outputs = [of_grads | {i} for i in of_params]
    of_outputs += [{i} for i in jax.tree.leaves(of_inputs.inner_state)]
    feedback = dict(enumerate(of_outputs))
    for name, start in of_hyper.items():
        found = _dependence.reachable(dependence, {start}, feedback)
        if of_params and not any(i < len(of_params) for i in found):
            raise ValueError(
                f"the update of inner does not depend on {name}, so that nothing could be learned: "
                f"inner(**hyperparams) must use the value of {name} that it is called with, as "
                "optax.sgd and lambda learning_rate: optax.chain(..., optax.sgd(learning_rate)) do"
            )
    by_grads = _dependence.reachable(dependence, set(of_grads), feedback)
    if needs_product and of_params and not any(i < len(of_params) for i in by_grads):
        warnings.warn(
            "the update of inner follows the gradients in jumps alone, as a sign does, so that no "
            "derivative of them goes through it: this method pays for products with the Hessian "
            "and sees no more than hyperlr.hd (or discount=0) does; use that",
            stacklevel=2,
        )
    start = set(of_hyper.values()) | (of_grads if through_grads else set())
    found = _dependence.reachable(dependence, start, feedback)
    outputs = Tangent(floats.params, floats.inner_state)
    number = iter(range(len(jax.tree.leaves(outputs))))
    return jax.tree.map(lambda x: x if next(number) in found else None, outputs)


def direct_tangents(
    step: Callable[[Hyperparams], tuple[Tree, Tree]], hyperparams: Hyperparams
) -> tuple[tuple[Tree, Tree], dict[str, Tangent]]:
    """The inner step's (u, s′), and B = ∂Φ/∂η for every hyperparameter η of the optimizer.

    ``step`` is a function of the hyperparameters alone. Were the gradients given a tangent too,
    even a zero one, an infinite slope inside the optimizer would make it 0 · ∞.
    """

    def differentiable(hyperparams: Hyperparams) -> tuple[Tangent, tuple[Tree, Tree]]:
        result = step(hyperparams)
        return _tangent_of(result), result

    directions = {
        name: {other: jnp.full_like(value, other == name) for other, value in hyperparams.items()}
        for name in hyperparams
    }
    if len(directions) == 1:  # one jvp is one trace less than a linearization
        [(name, direction)] = directions.items()
        _, tangent, result = jax.jvp(differentiable, (hyperparams,), (direction,), has_aux=True)
        return result, {name: tangent}
    _, push, result = jax.linearize(differentiable, hyperparams, has_aux=True)
    return result, {name: push(direction) for name, direction in directions.items()}


def propagated_tangents(
    step: Callable[[Inputs], tuple[Tree, Tree]], inputs: Inputs, tangents: dict[str, Inputs]
) -> dict[str, Tangent]:
    """∂Φ · ``tangents``, the derivative of (u, s′) along each of several tangents of the inputs.

    ``step`` is a function of the inputs alone; where a tangent has ``None``, its input is constant.
    Several tangents go one by one through one linearization: stacked and vmapped they take more
    time and memory (1.6 times and 4 times for three tangents of a 784-500-500-500-10 network on
    CPU), because copying a stack of parameters costs more than a batched matmul saves.
    """

    def differentiable(moving: Inputs) -> Tangent:
        return _tangent_of(step(_trees.with_floats(inputs, moving)))

    if not tangents:
        return {}
    moving = _trees.restricted(inputs, next(iter(tangents.values())))
    if len(tangents) == 1:
        [(name, tangent)] = tangents.items()
        return {name: jax.jvp(differentiable, (moving,), (tangent,))[1]}
    _, push = jax.linearize(differentiable, moving)
    return {name: push(tangent) for name, tangent in tangents.items()}


def step_and_tangents(
    step: Step, hyperparams: Hyperparams, inputs: Inputs, tangents: dict[str, Inputs]
) -> tuple[tuple[Tree, Tree], dict[str, Tangent], dict[str, Tangent]]:
    """The inner step's (u, s′), B for every hyperparameter, and the derivative along ``tangents``.

    It is what :func:`direct_tangents` and :func:`propagated_tangents` return. For one tangent the
    former is inside the latter, so that the step is evaluated once; the derivative of B that comes
    with it is never computed. With several that would take longer to trace.
    """

    def differentiable(moving: Inputs) -> tuple[Tangent, tuple[tuple[Tree, Tree], dict]]:
        at = _trees.with_floats(inputs, moving)
        result, direct = direct_tangents(lambda hyperparams: step(hyperparams, at), hyperparams)
        return _tangent_of(result), (result, direct)

    if len(tangents) == 1:
        [(name, tangent)] = tangents.items()
        moving = _trees.restricted(inputs, tangent)
        _, propagated, (result, direct) = jax.jvp(
            differentiable, (moving,), (tangent,), has_aux=True
        )
        return result, direct, {name: propagated}
    result, direct = direct_tangents(lambda hyperparams: step(hyperparams, inputs), hyperparams)
    at_hyperparams = functools.partial(step, hyperparams)
    return result, direct, propagated_tangents(at_hyperparams, inputs, tangents)
