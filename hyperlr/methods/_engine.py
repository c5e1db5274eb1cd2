"""The online recursion (Donini et al., 2020, Algorithm 1), once, for any inner optimizer.

HD, RTHO and MARTHE differ in the discount μ alone: 0, 1, and adapted.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperlr import _checks, _inner_step, _trees
from hyperlr._inner_step import Inputs
from hyperlr._linearize import Products
from hyperlr._replaced import replaced_if
from hyperlr._state import OnlineState, is_due
from hyperlr._trees import Tree
from hyperlr.methods._average import Evaluated
from hyperlr.methods._beginning import begin, init
from hyperlr.methods._given import derivatives_of_step, objective_grad
from hyperlr.methods._method import checked
from hyperlr.methods._recursion import moved, stepped

# Extra arguments that an inner optimizer may use, and that have tangents.
_DIFFERENTIABLE = ("value", "grad")


def online(
    inner: Callable[..., optax.GradientTransformation],
    hyperparams: Mapping[str, float | jax.Array],
    *,
    discount: float | jax.Array | Callable[[jax.Array], jax.Array] | None = None,
    hyper_optimizer: optax.GradientTransformation,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    average: float | jax.Array | Evaluated | None = None,
    every: int | Callable[[jax.Array], jax.Array] = 1,
    hvp: str = "forward_over_reverse",
    loss_hyperparams: Collection[str] = (),
    relative: bool = False,
    max_tangent: float | jax.Array | None = None,
    finds_first_rate: bool = False,
    tangent_dtype: Any = None,
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
    the one-step hypergradient g′_t = ⟨B_{t-1}, e⟩ (Donini et al., 2020, Appendix B)::

        q_t = clip(Δη_t / g′_t, 0, 1), or 0 where g′_t = 0
        μ_t = q_t^(1 / (c_{t-1} + 1)),   c_t = μ_{t-1} (1 + c_{t-1}),   μ_0 = c_0 = 0

    Args:
      inner: factory of the inner optimizer, called as ``inner(**hyperparams)`` with traced scalars:
        ``optax.sgd``, a ``functools.partial``, a lambda that builds a chain. What is inside it
        (clipping, weight decay) is inside the derivative; what is chained outside is not.
      hyperparams: initial value of every hyperparameter that is learned, by the name that ``inner``
        gives it: a dict of floats. Each costs one tangent.
      discount: μ in [0, 1]; or a function of the step count (int32 scalar) that returns it; or
        ``None`` to adapt it. A static 0 needs no Hessian-vector product.
      hyper_optimizer: transformation on the dict of hyperparameters, fed Δη. It may use the extra
        args ``tangent_norm`` (dict of ‖Z‖ over the parameters), ``objective_norm`` (‖e‖ over the
        parameters that can move) and, with ``max_tangent``, ``tangent_excess``.
      bounds: maps a name to (lower, upper); every name has a lower bound of 0 unless told
        otherwise.
      average: p ≥ 0 asks for the hypergradient at w̄, the average of the iterates with weights that
        grow like t^p, which :func:`hyperlr.eval_params` returns::

            w̄_{t+1} = w̄_t + c_t (w_{t+1} − w̄_t),   Z̄ likewise,   c_t = (p + 1) / (t + 1 + p)
            Δη_t    = ⟨Z̄_t, ∇E(w̄_t)⟩

        ``val_grad`` is then the gradient at w̄ (by default that of ``value_fn``). One
        copy of the parameters and of each tangent more. For an optimizer that keeps an average
        itself, a function of its state and the parameters that returns it, such as
        ``optax.contrib.schedule_free_eval_params``: then that is w̄, and Z̄ its derivative.
      every: k ≥ 1; Z and η move at every k-th step, and plain inner steps lie between. Or a
        function of the step count (int32 scalar) that returns whether they move at that step, such
        as :class:`hyperlr.Bursts`; at the first one they always do. It is part of the structure of
        the state, which is restored into a method whose function compares equal to it.
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
      relative: learns in units of log η: Z is the tangent with respect to it, with η B for B.
      max_tangent: ℓ ≥ 0 holds ‖Z‖ (over the parameters) below ℓ times the discounted length of the
        way so far; ``None`` lets it grow.
      finds_first_rate: ``learning_rate`` is a factor, and is multiplied in the first update by the
        rate that :func:`hyperlr.search.first_rate` finds by 41 forward passes of ``value_fn``.
      tangent_dtype: the dtype of Z; ``None`` is that of the parameters, at least float32.

    Returns:
      A transformation whose ``update(grads, state, params, *, value_fn=None, val_grad=None,
      **extra_args)`` takes ``value_fn``, the loss on the minibatch of ``grads`` as a scalar
      function of the parameters (needed unless ``discount`` is a static 0 and there are no
      ``loss_hyperparams``), and ``val_grad``, ∇E at ``params`` (like ``params``; the default is
      E = L, that is, ``grads``); or both derivatives as :func:`hyperlr.value_and_grad` and
      :func:`hyperlr.linearize_grad` give them, which cost less. Other extra args go to ``inner``,
      as far as it takes them; of ``value``, the loss at ``params``, and ``grad`` it gets tangents,
      too. Its state is a valid ``lax.scan`` carry. It supports ``vmap``; it is not meant to be
      differentiated.

    Raises:
      TypeError: a hyperparameter, step size or discount is not a float scalar, or ``inner`` does
        not take one of ``hyperparams``; in ``init``, complex parameters.
      ValueError: a static value out of range, crossed ``bounds``, an unknown ``hvp``; in
        ``update``, a missing ``params``, ``value_fn`` or, with ``loss_hyperparams``,
        ``val_grad``, or trees that do not match; in ``init``, an ``inner`` whose update does not
        depend on one of the hyperparameters.

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
      Donini et al., "Scheduling the Learning Rate via Hypergradients: New Insights and a New
      Algorithm", 2020, Algorithm 1, Eq. 9-11 and Appendix B; Polyak and Juditsky, 1992, for the
      average; Pearlmutter, 1994, for the product.
    """
    method = checked(
        inner,
        hyperparams,
        discount,
        hyper_optimizer,
        bounds,
        average,
        every,
        hvp,
        loss_hyperparams,
        relative,
        max_tangent,
        finds_first_rate,
        tangent_dtype,
    )

    def init_fn(params: optax.Params) -> OnlineState:
        return init(method, hyperparams, params)

    def update_fn(
        updates: optax.Updates,
        state: OnlineState,
        params: optax.Params | None = None,
        *,
        value_fn: Callable[..., jax.Array] | None = None,
        val_grad: optax.Updates | None = None,
        hessian_product: list[Products] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, OnlineState]:
        if params is None:
            raise ValueError("params is missing: call update(grads, state, params, ...)")
        grads = _trees.without_float0(updates, params)
        _checks.check_same_tree("grads", grads, "params", params)
        if method.settings.loss_hyperparams and val_grad is None:
            raise ValueError(
                f"val_grad is missing: the training loss itself says nothing of its own "
                f"hyperparameters {sorted(method.settings.loss_hyperparams)}, such as the weight "
                "of a penalty; pass the gradient of a validation loss, or val_batch to "
                "hyperlr.value_and_grad"
            )
        # The caller computed the gradients before this update, at the old values.
        of_loss = {name: state.hyperparams[name] for name in method.settings.loss_hyperparams}
        loss: Callable[..., jax.Array] | None = value_fn
        if of_loss and value_fn is not None:
            loss = functools.partial(_with_second, value_fn, of_loss)
        if loss is not None:
            extra_args["value_fn"] = loss
        given = {k: extra_args.pop(k) for k in _DIFFERENTIABLE if k in extra_args}
        step = _inner_step.inner_step(method.inner, extra_args)

        def inputs(state: OnlineState, params: Tree) -> Inputs:
            return Inputs(grads, state.inner_state, params, given)

        def move(state: OnlineState, params: Tree) -> tuple[OnlineState, tuple[Tree, Tree]]:
            products = derivatives_of_step(state, hessian_product, value_fn, loss, params, of_loss)
            objective = objective_grad(val_grad, grads, loss, state, params)
            state = begin(method, step, state, inputs(state, params), loss)
            return moved(method, step, state, inputs(state, params), products, objective)

        due = is_due(state)
        if due is True:
            state, result = move(state, params)
        else:
            state = replaced_if(jnp.asarray(due), lambda *args: move(*args)[0], state, params)
            result = step(method.of_inner(state.hyperparams), inputs(state, params))
        return stepped(method, state, params, result)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _with_second(function: Callable[..., Any], second: Any, first: Any) -> Any:
    return function(first, second)
