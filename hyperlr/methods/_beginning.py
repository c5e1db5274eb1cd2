"""The state before the first step: tangents of 0, and the first rate where one is to be found."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from hyperlr import _checks, _inner_step, _trees
from hyperlr._inner_step import Hyperparams, Inputs
from hyperlr._state import Bound, OnlineState, PerName, Tangent
from hyperlr._trees import Tree
from hyperlr.methods._average import first_average
from hyperlr.methods._method import Method
from hyperlr.methods._rates import rates_of
from hyperlr.methods._recursion import hidden
from hyperlr.search import first_rate

# With one gradient, so that a momentum is up to speed, and what curves has room to.
_STEPS_OF_FIRST_RATE = 10


def init(method: Method, hyperparams: Mapping[str, float | jax.Array], params: Tree) -> OnlineState:
    """The state at t = 0: every tangent is 0, and leaves that nothing moves have none."""
    _checks.check_real(params)
    dtype = _trees.accumulation_dtype(params)
    wide = dtype if method.tangent_dtype is None else method.tangent_dtype
    initial = {name: jnp.asarray(value, dtype) for name, value in hyperparams.items()}
    of_inner = method.of_inner(initial)
    inner_state = method.inner(**of_inner).init(params)
    inner_state = _trees.cast_like(inner_state, inner_state)
    moves, rates = _moves_and_rates(method, of_inner, params, inner_state)

    def zeros() -> PerName:
        return PerName((name, jnp.zeros((), dtype)) for name in hyperparams)

    def tangents() -> PerName:
        def zero(x: jax.Array) -> jax.Array:
            return jnp.zeros_like(x, dtype=wide)

        kept = moves if method.settings.needs_product else moves._replace(inner_state=None)
        return PerName((name, jax.tree.map(zero, kept)) for name in hyperparams)

    # Every leaf is its own buffer, so that the state can be donated.
    tangent = tangents()
    hyper_state = method.rule.init(initial)
    return OnlineState(
        settings=dataclasses.replace(method.settings, rates=rates),
        awaits_rate=jnp.array(True) if method.settings.finds_first_rate else None,
        step_count=jnp.zeros((), jnp.int32),
        hyperparams=initial,
        lower=PerName((name, jnp.asarray(method.bounds[name][0], dtype)) for name in hyperparams),
        hypergradient=zeros(),
        discount=zeros(),
        horizon=zeros(),
        num_restarts=jnp.zeros((), jnp.int32),
        tangent=tangent,
        direct=PerName((name, z.params) for name, z in tangents().items())
        if method.discount is None
        else PerName({}),
        average=None if method.average is None else first_average(params, tangent),
        bound=None if method.max_tangent is None else Bound(distance=zeros(), excess=zeros()),
        inner_state=inner_state,
        hyper_state=hidden(_trees.cast_like(hyper_state, hyper_state), initial),
    )


def _moves_and_rates(
    method: Method, of_inner: Hyperparams, params: Tree, inner_state: Tree
) -> tuple[Tangent, tuple[str, ...]]:
    """What the hyperparameters can move of the parameters and the inner state; and the rates."""
    floats = Tangent(_trees.floats_of(params), _trees.floats_of(inner_state))
    if not jax.tree.leaves(floats.params):
        return floats, ()
    # What an inner optimizer may ask for; only shapes and dtypes of it are looked at.
    value = jax.ShapeDtypeStruct((), _trees.accumulation_dtype(params))
    inputs = Inputs(params, inner_state, params, {"value": value, "grad": params})
    given = {"value_fn": lambda params: jnp.zeros((), value.dtype)}
    step = _inner_step.inner_step(method.inner, given)
    through_grads = bool(method.settings.loss_hyperparams)
    moves = _inner_step.movable(
        step, of_inner, inputs, through_grads, method.settings.needs_product
    )
    return moves, rates_of(step, of_inner, inputs)


def begin(
    method: Method,
    step: _inner_step.Step,
    state: OnlineState,
    inputs: Inputs,
    value_fn: Callable[[Tree], jax.Array] | None,
) -> OnlineState:
    """The state with a first learning rate, before the first step of a method that looks for one.

    Until then ``learning_rate`` is a factor of what will be found: 1, or less after the guard cut
    it.
    """
    if state.awaits_rate is None:
        return state
    loss = _checks.required_value_fn(value_fn)
    if _trees.is_masked_tree(inputs.params):
        raise ValueError(
            "a mask around the method shows it a part of the parameters, of which no loss can be "
            "taken to find a first learning rate: pass learning_rate"
        )
    factor = state.hyperparams["learning_rate"]

    def loss_after(rate: jax.Array) -> jax.Array:
        hyperparams = state.hyperparams | {"learning_rate": rate.astype(factor.dtype)}

        def again(carry: tuple[Tree, Tree], _: None) -> tuple[tuple[Tree, Tree], None]:
            params, inner_state = carry
            moved = inputs._replace(params=params, inner_state=inner_state)
            updates, inner_state = step(method.of_inner(hyperparams), moved)
            return (optax.apply_updates(params, updates), inner_state), None

        carry = (inputs.params, inputs.inner_state)
        (params, _), _ = jax.lax.scan(again, carry, length=_STEPS_OF_FIRST_RATE)
        return loss(params).astype(factor.dtype)

    found = jax.lax.cond(
        state.awaits_rate,
        lambda: factor * first_rate(loss_after, loss(inputs.params).astype(factor.dtype)),
        lambda: factor,
    )
    lower, upper = state.lower["learning_rate"], method.bounds["learning_rate"][1]
    return state._replace(
        awaits_rate=jnp.zeros_like(state.awaits_rate),
        hyperparams=state.hyperparams | {"learning_rate": jnp.clip(found, lower, upper)},
    )
