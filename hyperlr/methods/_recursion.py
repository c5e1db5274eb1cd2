"""One step of the recursion: Δη, μ, η, the inner step, and Z for the next (Algorithm 1).

Nothing that goes wrong in a derivative touches the training: an entry of A Z that is not finite is
replaced by that of B alone, and by 0 where that is not; where Δη is not finite, η stays and the
tangent starts anew from B.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperlr import _inner_step, _numbers, _trees
from hyperlr._inner_step import Hyperparams, Inputs
from hyperlr._linearize import Products
from hyperlr._state import Average, Bound, OnlineState, PerName, Tangent
from hyperlr._trees import Tree
from hyperlr.methods._average import kept_average, next_average, sound_average
from hyperlr.methods._discount import adapted_discount
from hyperlr.methods._method import Method
from hyperlr.methods._scheduled import schedule_weight


def stepped(
    method: Method, state: OnlineState, params: Tree, result: tuple[Tree, Tree]
) -> tuple[Tree, OnlineState]:
    """The update of a step, and the state after it; the average moves with the parameters.

    Args:
      method: what was fixed when it was built.
      state: in which the hyperparameters and tangents have moved, if they are to.
      params: before the step.
      result: of Φ, the update and the state of the inner optimizer.
    """
    updates, inner_state = result
    return updates, state._replace(
        step_count=optax.safe_increment(state.step_count),
        average=_next_average(method, state, params, updates, inner_state),
        inner_state=inner_state,
    )


def moved(
    method: Method,
    step: _inner_step.Step,
    state: OnlineState,
    inputs: Inputs,
    products: Products | None,
    objective: Tree,
) -> tuple[OnlineState, tuple[Tree, Tree]]:
    """The hyperparameters and their tangents for the next step; and this step, which made them.

    Args:
      method: what was fixed when it was built.
      step: Φ, a function of hyperparameters and inputs.
      state: of the method.
      inputs: of Φ.
      products: H Z and mixed derivatives; ``None`` where μ is 0.
      objective: ∇E, like the parameters.
    """
    looked_at = _looked_at(state)
    objective_grad = _objective_grad(objective, looked_at)
    sums = _sums(method, state, looked_at, objective_grad)
    found = {n: x.astype(state.discount[n].dtype) for n, x in sums["hypergradient"].items()}
    norms = _norms(method, state, sums)
    is_sound = _all_finite((found, state.horizon, norms))

    def sound(per_name: Mapping[str, jax.Array]) -> Hyperparams:
        return {name: jnp.where(is_sound, x, jnp.zeros_like(x)) for name, x in per_name.items()}

    hypergradient = sound(found)
    # c_t goes with Z_t, so with the discount that made Z_t: the previous one.
    horizon = sound({name: mu * (1 + state.horizon[name]) for name, mu in state.discount.items()})
    discount = sound(_discount(method, state, hypergradient, sums))
    hyperparams, hyper_state = _hyper_step(method, state, hypergradient, norms, is_sound)
    hyperparams, discount = _numbers.computed_once((hyperparams, discount))

    wide = _widened(inputs, state.tangent)
    of_inner = method.of_inner(hyperparams)
    along = {}
    if state.settings.needs_product and products is not None:
        along = _tangents_of_inputs(wide, state.tangent, products.hessian)
    (updates, inner_state), direct, propagated = _inner_step.step_and_tangents(
        step, of_inner, wide, along
    )
    if wide is not inputs:
        updates, inner_state = step(of_inner, inputs)
    if products is not None:
        at_hyperparams = functools.partial(step, of_inner)
        direct |= _tangents_through_grads(at_hyperparams, wide, products.mixed)
    direct = {
        name: _like(direct[name], old, hyperparams[name] if method.relative else None)
        for name, old in state.tangent.items()
    }
    tangent = PerName(
        (name, _discounted_sum(discount[name], _carried(z, propagated[name]), direct[name]))
        if name in propagated
        else (name, direct[name])
        for name, z in state.tangent.items()
    )
    tangent, bound = _bounded(method, state, tangent, discount, updates)
    return state._replace(
        hyperparams=hyperparams,
        hypergradient=PerName(hypergradient),
        discount=PerName(discount),
        horizon=PerName(horizon),
        num_restarts=state.num_restarts + jnp.where(is_sound, 0, 1).astype(jnp.int32),
        tangent=tangent,
        direct=PerName((name, direct[name].params) for name in state.direct),
        average=None
        if state.average is None
        else sound_average(state.average, inputs.params, is_sound),
        bound=bound,
        hyper_state=hyper_state,
    ), (updates, inner_state)


def _looked_at(state: OnlineState) -> dict[str, Tree]:
    """The tangents of where the objective is taken: of the average, if there is one."""
    if state.average is not None:
        return dict(state.average.tangent)
    return {name: tangent.params for name, tangent in state.tangent.items()}


def _objective_grad(objective: Tree, looked_at: dict[str, Tree]) -> Tree:
    """∇E over what can move, in no wider dtype than the tangents'.

    A validation loss in float64 would have rules compute with dtypes that do not go together.
    """
    moving = next(iter(looked_at.values()))
    dtype = _trees.accumulation_dtype(moving)
    return jax.tree.map(
        lambda e: e.astype(dtype) if e.dtype.itemsize > dtype.itemsize else e,
        _trees.restricted(_trees.floats_of(objective), moving),
    )


def _sums(
    method: Method, state: OnlineState, looked_at: dict[str, Tree], objective_grad: Tree
) -> dict[str, dict[str, jax.Array]]:
    """The inner products that the step is decided by, in one passage over Z, B and e = ∇E.

    ⟨Z, e⟩; where μ is adapted, ⟨B, e⟩ and ⟨B, B⟩; where the rule takes norms, ⟨Z, Z⟩ and ⟨e, e⟩.
    """
    pair = _numbers.Pair
    pairs = {"hypergradient": {name: pair(z, objective_grad) for name, z in looked_at.items()}}
    if method.discount is None:
        pairs["one_step"] = {name: pair(b, objective_grad) for name, b in state.direct.items()}
        pairs["direct"] = {name: pair(b, b) for name, b in state.direct.items()}
    if _takes_norms(method.rule):
        pairs["tangent"] = {name: pair(z, z) for name, z in looked_at.items()}
        pairs["objective"] = {"": pair(objective_grad, objective_grad)}
    return _numbers.inner_products(pairs)


def _takes_norms(rule: optax.GradientTransformation) -> bool:
    return isinstance(rule, optax.GradientTransformationExtraArgs)


def _norms(
    method: Method, state: OnlineState, sums: dict[str, dict[str, jax.Array]]
) -> dict[str, Any]:
    """‖Z‖ for each name and ‖e‖, for rules that take them; the excess where there is a bound."""
    if not _takes_norms(method.rule):
        return {}
    return {
        "tangent_norm": {name: _numbers.root(x) for name, x in sums["tangent"].items()},
        "objective_norm": _numbers.root(sums["objective"][""]),
    } | ({} if state.bound is None else {"tangent_excess": dict(state.bound.excess)})


def _all_finite(scalars: Any) -> jax.Array:
    return functools.reduce(jnp.logical_and, map(jnp.isfinite, jax.tree.leaves(scalars)))


def _discount(
    method: Method,
    state: OnlineState,
    hypergradient: Hyperparams,
    sums: dict[str, dict[str, jax.Array]],
) -> Hyperparams:
    """μ_t; μ_0 = 0, since there is no past to discount yet."""
    if method.discount is None:
        found = {
            name: adapted_discount(
                hypergradient[name], one_step, sums["direct"][name], state.horizon[name]
            )
            for name, one_step in sums["one_step"].items()
        }
    else:
        given = method.discount
        mu = jnp.asarray(given(state.step_count) if callable(given) else given)
        found = dict.fromkeys(state.discount, mu)
    return {
        name: jnp.where(state.step_count == 0, 0.0, found[name]).astype(old.dtype)
        for name, old in state.discount.items()
    }


def _hyper_step(
    method: Method,
    state: OnlineState,
    hypergradient: Hyperparams,
    norms: dict[str, Any],
    is_sound: jax.Array,
) -> tuple[Hyperparams, optax.OptState]:
    """η_t and the hyper-optimizer's state: one projected step along Δη_t, none at t = 0."""
    old = (state.hyperparams, revealed(state.hyper_state))
    rule = optax.with_extra_args_support(method.rule)
    steps, hyper_state = rule.update(hypergradient, old[1], state.hyperparams, **norms)
    weight = schedule_weight(state.inner_state)
    if weight is not None:
        steps = jax.tree.map(lambda x: weight.astype(x.dtype) * x, steps)
    new = _trees.cast_like((optax.apply_updates(state.hyperparams, steps), hyper_state), old)
    # Δη_0 = 0 stands for "none yet": a rule that counts its steps or decays η must not see it.
    moves = is_sound & (state.step_count > 0)
    values, hyper_state = jax.tree.map(lambda a, b: jnp.where(moves, a, b), new, old)

    def projected(name: str, value: jax.Array) -> jax.Array:
        # The step may overflow; an infinite η would make NaN of every gradient that is zero.
        finite = jnp.where(jnp.isnan(value), state.hyperparams[name], _numbers.saturated(value))
        return jnp.clip(finite, state.lower[name], method.bounds[name][1])

    return {n: projected(n, x) for n, x in values.items()}, hidden(hyper_state, state.hyperparams)


def hidden(hyper_state: Any, hyperparams: Hyperparams) -> Any:
    """A rule's state with :class:`PerName` in place of dicts, see there."""

    def is_per_name(node: Any) -> bool:
        return isinstance(node, dict) and node.keys() == hyperparams.keys()

    return jax.tree.map(
        lambda node: PerName(node) if is_per_name(node) else node, hyper_state, is_leaf=is_per_name
    )


def revealed(hyper_state: Any) -> Any:
    """The inverse of :func:`hidden`: the state as the rule knows it."""

    def is_per_name(node: Any) -> bool:
        return isinstance(node, PerName)

    return jax.tree.map(
        lambda node: dict(node) if is_per_name(node) else node, hyper_state, is_leaf=is_per_name
    )


def _widened(inputs: Inputs, tangent: PerName) -> Inputs:
    """The inputs of Φ in at least the tangents' dtype, so that its derivative is formed in it.

    In bfloat16 a tangent of many steps would lose a quarter of itself to rounding. Where nothing is
    narrower this is ``inputs`` itself, and Φ is evaluated once.
    """
    dtype = _trees.accumulation_dtype(())
    dtypes = {x.dtype for x in jax.tree.leaves(tangent)}
    dtype = max(dtypes, key=lambda d: d.itemsize, default=dtype)

    def is_narrow(x: Any) -> bool:
        return _trees.is_float(x) and jnp.result_type(x).itemsize < dtype.itemsize

    if not any(map(is_narrow, jax.tree.leaves(inputs))):
        return inputs
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if is_narrow(x) else x, inputs)


def _tangents_through_grads(
    step: Callable[[Inputs], tuple[Tree, Tree]], inputs: Inputs, mixed: PerName
) -> dict[str, Tangent]:
    """B for hyperparameters of the loss, which act through the gradients: ∂Φ/∂g ∂²L/∂w∂η."""
    floats = _trees.floats_of(inputs.grads)
    tangents = {
        name: Inputs(_trees.cast_like(grads_dot, floats), None, None, dict.fromkeys(inputs.extra))
        for name, grads_dot in mixed.items()
    }
    return _inner_step.propagated_tangents(step, inputs, tangents)


def _like(direct: Tangent, tangent: Tangent, scale: jax.Array | None) -> Tangent:
    """B in the form of Z; times η where derivatives are taken in log η.

    At a dead weight an infinite slope inside the optimizer makes NaN of B, too, where 0 is right.
    """
    direct = _trees.restricted(direct, tangent)
    direct = jax.tree.map(lambda b: _numbers.finite(b, jnp.zeros_like(b)), direct)
    if scale is not None:
        direct = jax.tree.map(lambda b: scale.astype(b.dtype) * b, direct)
    return _trees.cast_like(direct, tangent)


def _tangents_of_inputs(inputs: Inputs, tangent: PerName, hessian: PerName) -> dict[str, Inputs]:
    """The tangents of Φ's inputs that go with each tangent Z, given H Z."""

    def of_inputs(z: Tangent, grads_dot: Tree) -> Inputs:
        grads_dot = _trees.cast_like(grads_dot, _trees.floats_of(inputs.grads))
        extra = {}
        for name, given in inputs.extra.items():
            if name == "grad":
                extra[name] = _trees.cast_like(grads_dot, _trees.floats_of(given))
            else:
                slope = _numbers.inner_product(z.params, _trees.restricted(inputs.grads, z.params))
                extra[name] = slope.astype(jnp.result_type(given))
        state = _trees.restricted(inputs.inner_state, z.inner_state)
        params = _trees.restricted(inputs.params, z.params)
        return Inputs(
            grads_dot,
            _trees.cast_like(z.inner_state, state),
            _trees.cast_like(z.params, params),
            extra,
        )

    return {name: of_inputs(z, hessian[name]) for name, z in tangent.items()}


def _carried(z: Tangent, propagated: Tangent) -> Tangent:
    """A Z, given what the update makes of Z; the parameters that it is added to keep their own."""
    params, inner_state = _trees.cast_like(_trees.restricted(propagated, z), z)
    return Tangent(jax.tree.map(jnp.add, z.params, params), inner_state)


def _discounted_sum(discount: jax.Array, carried: Tangent, direct: Tangent) -> Tangent:
    """Z_{t+1} = μ_t A_t Z_t + B_t, and B_t alone in the entries where that is not finite.

    Eq. 9 of Donini et al., 2020; their Eq. 10 prints Z_{t-1} for Z_t.
    """

    def entries(az: jax.Array, b: jax.Array) -> jax.Array:
        return _numbers.finite(discount.astype(az.dtype) * az + b, b)

    return jax.tree.map(entries, carried, direct)


def _bounded(
    method: Method, state: OnlineState, tangent: PerName, discount: Hyperparams, updates: Tree
) -> tuple[PerName, Bound | None]:
    """Z held below ``max_tangent`` times the way that the parameters went, and by how much.

    Where the rate is too large for the curvature, Z grows like the fastest growing mode, of which
    it then has the direction: it says nothing any more, but that it had to be held does.
    """
    if state.bound is None or method.max_tangent is None:
        return tangent, None
    length = _numbers.norm(_trees.floats_of(updates))
    held, distances, excesses = {}, {}, {}
    for name, z in tangent.items():
        old = state.bound.distance[name]
        distance = discount[name] * old + length.astype(old.dtype)
        allowed = (method.max_tangent * distance).astype(old.dtype)
        ratio = _numbers.ratio(_numbers.norm(z.params).astype(old.dtype), allowed, 1.0)
        # Beyond e^80 it may as well be 0; the norm may have overflown, or the way not be finite.
        excess = jnp.clip(jnp.log(jnp.maximum(ratio, 1.0)), 0.0, 80.0)
        excess = jnp.where(jnp.isnan(excess), 80.0, excess)
        held[name] = optax.tree.scale(jnp.exp(-excess), z)
        distances[name] = jnp.where(jnp.isfinite(distance), distance, 0.0)
        excesses[name] = excess
    held = {name: _trees.cast_like(z, tangent[name]) for name, z in held.items()}
    return PerName(held), Bound(PerName(distances), PerName(excesses))


def _next_average(
    method: Method, state: OnlineState, params: Tree, updates: Tree, inner_state: Tree
) -> Average | None:
    if state.average is None or method.average is None:
        return None
    params = optax.apply_updates(params, updates)
    if callable(method.average):
        return kept_average(state.average, method.average, params, inner_state, state.tangent)
    return next_average(state.average, method.average, params, state.tangent)
