"""The online recursion of Algorithm 1 of [P], once, for any inner optimizer and hyperparameters.

HD, RTHO and MARTHE differ in the discount μ alone: 0, 1, and adapted.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperlr import _checks, _inner_step, _linearize, _numbers, _trees
from hyperlr._inner_step import Hyperparams, Tangent
from hyperlr._trees import Tree
from hyperlr.methods._discount import adapted_discount

_DEFAULT_BOUNDS = {"learning_rate": (0.0, float("inf"))}


class OnlineState(NamedTuple):
    """State of :func:`online`. Scalars have shape () and at least float32.

    Attributes:
      step_count: int32, the number of updates since Z was 0: at the start, or after a rollback of
        :func:`hyperlr.guard`.
      hyperparams: η of the last update, one scalar for each name.
      hypergradient: Δη of the last update.
      discount: μ of the last update.
      horizon: c of the last update.
      tangent: Z for the next update, one for each name, in the dtypes of what it is a tangent of.
      direct: the parameters' part of the last B, one for each name; empty unless μ adapts.
      inner_state: state of the inner optimizer.
      hyper_state: state of the hyper-optimizer.
    """

    step_count: jax.Array
    hyperparams: Hyperparams
    hypergradient: Hyperparams
    discount: Hyperparams
    horizon: Hyperparams
    tangent: dict[str, Tangent]
    direct: dict[str, Tree]
    inner_state: optax.OptState
    hyper_state: optax.OptState


def online(
    inner: Callable[..., optax.GradientTransformation],
    hyperparams: Mapping[str, float | jax.Array],
    *,
    discount: float | jax.Array | None = None,
    hyper_optimizer: optax.GradientTransformation,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    loss_hyperparams: Collection[str] = (),
    hvp: str = "forward_over_reverse",
) -> optax.GradientTransformationExtraArgs:
    r"""Learns hyperparameters of an optimizer, by hypergradients, while it trains.

    With (w, s) the parameters and the inner optimizer's state, Φ its step, A = ∂Φ/∂(w, s) and
    B = ∂Φ/∂η, the update of step t receives e = ∇E(w_t) (``val_grad``) and computes, for every
    hyperparameter η::

        Δη_t    = ⟨Z_t, e⟩                       the hypergradient (over the parameters)
        η_t     = project(η_{t-1} + hyper_optimizer(Δη_t))
        Z_{t+1} = μ_t A_t Z_t + B_t              at η_t, with Z_0 = 0

    followed by the inner step with η_t. At t = 0 there is no hypergradient yet and η stays. The
    discount μ_t is ``discount``, or if that is ``None``, adapted from q_t, which compares Δη_t with
    the one-step hypergradient g′_t = ⟨B_{t-1}, e⟩ (Appendix B of [P])::

        q_t = clip(Δη_t / g′_t, 0, 1), or 0 where g′_t = 0
        μ_t = q_t^(1 / (c_{t-1} + 1)),   c_t = μ_{t-1} (1 + c_{t-1}),   μ_0 = c_0 = 0

    Args:
      inner: factory of the inner optimizer, called as ``inner(**hyperparams)`` with traced scalars:
        ``optax.sgd``, a ``functools.partial``, a lambda that builds a chain. What is inside it
        (clipping, weight decay) is inside the derivative; what is chained outside is not.
      hyperparams: initial value of every hyperparameter that is learned, by the name that ``inner``
        gives it: a dict of floats. Each costs one tangent.
      discount: μ in [0, 1], or ``None`` to adapt it. A static 0 needs no Hessian-vector product.
      hyper_optimizer: transformation on the dict of hyperparameters, fed Δη. It may use the extra
        args ``tangent_norm`` (dict of ‖Z‖ over the parameters) and ``objective_norm`` (‖e‖).
      bounds: maps a name to (lower, upper); ``learning_rate`` is kept ≥ 0 by default.
      loss_hyperparams: the names in ``hyperparams`` that are the loss's and not ``inner``'s: label
        smoothing, the weight of a penalty. ``value_fn(params, loss_hyperparams)`` then takes the
        dict of them, and ``grads`` must be the gradients at their current values, which
        :func:`hyperlr.metrics` gives. For them, B = ∂Φ/∂g ∂²L/∂w∂η, with g the gradient.
      hvp: how ∇²L Z is computed. "forward_over_reverse", exact; "reverse_over_reverse", exact,
        for losses with a ``custom_vjp``; "finite_difference", one gradient more in place of a
        Hessian-vector product. It is first-order accurate over a step of relative length ε^(1/3),
        with ε the machine epsilon: for a smooth loss Δη is off by about 1e-5 in float64 and a few
        per cent in float32. Where gradients jump it is cruder: with ReLU on digits in float32, by
        3% at η = 0.01 and 27% at η = 0.1. It is not for bfloat16 parameters.

    Returns:
      A transformation whose ``update(grads, state, params, *, value_fn=None, val_grad=None,
      **extra_args)`` takes ``value_fn``, the loss on the minibatch of ``grads`` as a scalar
      function of the parameters (needed unless ``discount`` is a static 0 and there are no
      ``loss_hyperparams``), and ``val_grad``, ∇E
      at ``params`` (like ``params``; the default is E = L, that is, ``grads``). Other extra args
      go to ``inner``. Its state is a valid ``lax.scan`` carry. It supports ``vmap``; it is not
      meant to be differentiated.

    Raises:
      TypeError: a hyperparameter, step size or discount is not a float scalar, or ``inner`` does
        not take one of ``hyperparams``; in ``init``, complex parameters.
      ValueError: a static value out of range, crossed ``bounds``, an unknown ``hvp``; in
        ``update``, a missing ``params`` or ``value_fn``, or trees that do not match.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hyperlr
      >>> tx = hyperlr.online(
      ...     optax.sgd,
      ...     {"learning_rate": 0.01, "momentum": 0.5},
      ...     discount=0.9,
      ...     hyper_optimizer=hyperlr.adaptive_sgd(1e-3),
      ...     bounds={"momentum": (0.0, 0.99)},
      ... )
      >>> loss = lambda w: jnp.sum((w - 1.0) ** 2)
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> for _ in range(10):
      ...     grads = jax.grad(loss)(params)
      ...     updates, state = tx.update(grads, state, params, value_fn=loss)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(hyperlr.metrics(state)["learning_rate"] > 0.01)
      True

    References:
      [P] "Scheduling the Learning Rate via Hypergradients: New Insights and a New Algorithm",
      Algorithm 1, Eq. 9-11 and Appendix B (Donini et al., 2020).
    """
    if not isinstance(hyperparams, Mapping) or not hyperparams:
        raise TypeError(
            'hyperparams must be a dict with at least one entry, such as {"learning_rate": 0.01}, '
            f"got {hyperparams!r}"
        )
    defaults = {name: pair for name, pair in _DEFAULT_BOUNDS.items() if name in hyperparams}
    limits = defaults | dict(bounds or {})
    inner_names = [name for name in hyperparams if name not in loss_hyperparams]
    _checks.check_names("loss_hyperparams", loss_hyperparams, hyperparams)
    _checks.check_inner(inner, inner_names)
    _checks.check_bounds(limits, hyperparams)
    for name, value in hyperparams.items():
        _checks.check_float_scalar(name, value, *limits.get(name, ()))
    if discount is not None:
        _checks.check_float_scalar("discount", discount, 0.0, 1.0)
    _checks.check_choice("hvp", hvp, _linearize.HVP_MODES)
    adapts = discount is None
    keeps_history = adapts or not _checks.is_zero(discount)
    _checks.check_transformation("hyper_optimizer", hyper_optimizer)
    rule = optax.with_extra_args_support(hyper_optimizer)
    rule.init(dict(hyperparams))  # A rule that refuses the initial values says so now.

    def init_fn(params: optax.Params) -> OnlineState:
        _checks.check_real(params)
        dtype = _trees.accumulation_dtype(params)
        initial = {name: jnp.asarray(value, dtype) for name, value in hyperparams.items()}
        inner_state = inner(**{name: initial[name] for name in inner_names}).init(params)
        inner_state = _trees.cast_like(inner_state, inner_state)

        def zeros() -> Hyperparams:
            return {name: jnp.zeros((), dtype) for name in hyperparams}

        def tangent() -> Tangent:
            return Tangent(
                optax.tree.zeros_like(_trees.floats_of(params)),
                optax.tree.zeros_like(_trees.floats_of(inner_state)) if keeps_history else None,
            )

        # Every leaf is its own buffer, so that the state can be donated.
        return OnlineState(
            step_count=jnp.zeros((), jnp.int32),
            hyperparams=initial,
            hypergradient=zeros(),
            discount=zeros(),
            horizon=zeros(),
            tangent={name: tangent() for name in hyperparams},
            direct={name: tangent().params for name in hyperparams} if adapts else {},
            inner_state=inner_state,
            hyper_state=rule.init(initial),
        )

    def update_fn(
        updates: optax.Updates,
        state: OnlineState,
        params: optax.Params | None = None,
        *,
        value_fn: Callable[..., jax.Array] | None = None,
        val_grad: optax.Updates | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, OnlineState]:
        grads = updates
        if params is None:
            raise ValueError("params is missing: call update(grads, state, params, ...)")
        _checks.check_same_tree("grads", grads, "params", params)
        grads = _trees.without_float0(grads, params)
        objective_grad = _objective_grad(val_grad, grads, params)
        # The caller computed the gradients before this update, at the old values.
        of_loss = {name: state.hyperparams[name] for name in loss_hyperparams}
        if value_fn is not None or keeps_history or of_loss:
            full_loss = _checks.required_value_fn(value_fn)
            loss = (lambda w: full_loss(w, of_loss)) if of_loss else full_loss
            extra_args["value_fn"] = loss

        hypergradient = {
            name: _numbers.inner_product(tangent.params, objective_grad)
            for name, tangent in state.tangent.items()
        }
        # c_t goes with Z_t, so with the discount that made Z_t: the previous one.
        horizon = {name: mu * (1.0 + state.horizon[name]) for name, mu in state.discount.items()}
        if discount is None:
            new_discount = adapted_discount(
                hypergradient, state.direct, objective_grad, state.horizon
            )
        else:
            # μ_0 = 0: there is no past to discount yet.
            mu = jnp.where(state.step_count == 0, 0.0, discount)
            new_discount = {name: mu.astype(old.dtype) for name, old in state.discount.items()}
        new_hyperparams, hyper_state = _hyper_step(
            rule, limits, state, hypergradient, objective_grad
        )

        of_inner = {name: new_hyperparams[name] for name in inner_names}
        step = functools.partial(_inner_step.inner_step, inner, extra_args)
        (updates, inner_state), direct = _inner_step.direct_tangents(
            lambda of_inner: step(of_inner, grads, state.inner_state, params), of_inner
        )
        if of_loss:
            direct |= _inner_step.loss_tangents(
                lambda grads: step(of_inner, grads, state.inner_state, params),
                grads,
                full_loss,
                params,
                of_loss,
            )
        if keeps_history:
            propagated = _inner_step.propagated_tangents(
                functools.partial(step, of_inner),
                grads,
                state.inner_state,
                params,
                state.tangent,
                _linearize.hessian_product(loss, params, grads=grads, mode=hvp),
            )
            tangent = {
                name: _discounted_sum(new_discount[name], propagated[name], direct[name])
                for name in direct
            }
        else:
            tangent = {
                name: _numbers.summable(Tangent(b.params, None)) for name, b in direct.items()
            }

        return updates, OnlineState(
            step_count=optax.safe_increment(state.step_count),
            hyperparams=new_hyperparams,
            hypergradient=hypergradient,
            discount=new_discount,
            horizon=horizon,
            tangent=tangent,
            direct={name: _numbers.summable(b.params) for name, b in direct.items() if adapts},
            inner_state=inner_state,
            hyper_state=hyper_state,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _objective_grad(val_grad: Tree | None, grads: Tree, params: Tree) -> Tree:
    """∇E, floating-point leaves only, and summable; E = L where there is no ``val_grad``."""
    if val_grad is None:
        return _numbers.summable(_trees.floats_of(grads))
    if any(map(_is_masked, jax.tree.leaves(params, is_leaf=_is_masked))):
        # optax.masked and optax.partition mask gradients and parameters, but not the extra args.
        val_grad = jax.tree.map(
            lambda w, e: w if _is_masked(w) else e, params, val_grad, is_leaf=_is_masked
        )
    _checks.check_same_tree("val_grad", val_grad, "params", params)
    found = _trees.floats_of(_trees.without_float0(val_grad, params))
    # Of a validation loss in float64 too, or all that is learned would become float64 with it.
    dtype = _trees.accumulation_dtype(params)
    narrow = jax.tree.map(
        lambda e: e.astype(dtype) if e.dtype.itemsize > dtype.itemsize else e, found
    )
    return _numbers.summable(narrow)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _hyper_step(
    rule: optax.GradientTransformationExtraArgs,
    limits: Mapping[str, tuple[float, float]],
    state: OnlineState,
    hypergradient: Hyperparams,
    objective_grad: Tree,
) -> tuple[Hyperparams, optax.OptState]:
    """η_t and the hyper-optimizer's state: one projected step along Δη_t, none at t = 0."""
    steps, hyper_state = rule.update(
        hypergradient,
        state.hyper_state,
        state.hyperparams,
        tangent_norm={name: _numbers.norm(z.params) for name, z in state.tangent.items()},
        objective_norm=_numbers.norm(objective_grad),
    )
    moved = optax.apply_updates(state.hyperparams, steps)
    old = (state.hyperparams, state.hyper_state)
    new = _trees.cast_like((moved, hyper_state), old)
    # Δη_0 = 0 stands for "none yet": a rule that counts its steps or decays η must not see it.
    values, hyper_state = jax.tree.map(
        lambda a, b: jnp.where(state.step_count == 0, a, b), old, new
    )
    # The step may overflow; an infinite η would make NaN of every gradient that is zero.
    finite = {name: _numbers.saturated(value) for name, value in values.items()}
    projected = {
        name: jnp.clip(value, *limits[name]) if name in limits else value
        for name, value in finite.items()
    }
    return projected, hyper_state


def _discounted_sum(discount: jax.Array, propagated: Tangent, direct: Tangent) -> Tangent:
    """Z_{t+1} = μ_t A_t Z_t + B_t ([P] Eq. 9; Eq. 10 prints Z_{t-1} for Z_t).

    Where that overflows, Z is held. In float16, where A Z may overflow on the way and be NaN, the
    past is forgotten there: with a largest number of 65504, holding Z does not prevent that.
    """

    def entries(az: jax.Array, b: jax.Array) -> jax.Array:
        total = (discount * az + b).astype(b.dtype)
        is_narrow = b.dtype == jnp.float16
        return jnp.where(jnp.isfinite(total), total, b) if is_narrow else total

    return _numbers.summable(jax.tree.map(entries, propagated, direct))
