"""The gradient of the loss together with its derivative along the tangents, from one place.

A method that looks further than one step back needs, beside the gradient g, its derivative H Z
along the tangent Z. The two share all of the forward and backward pass, if they are taken together:
``jax.jvp`` of the gradient returns both, for the price of three gradients (one for g, two for H Z).
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperlr import _checks, _trees
from hyperlr._derivatives import Gradient, derivatives, mixed_derivatives
from hyperlr._state import OnlineState, PerName, is_due, online_states
from hyperlr._trees import Tree


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["hessian", "mixed"], meta_fields=["of"]
)
@dataclasses.dataclass
class Products:
    """The derivatives of the gradient that one method's update needs.

    Attributes:
      of: the structure of the tangents that they belong to.
      hessian: H Z for each hyperparameter, like the parameters.
      mixed: ∂²L/∂w∂η for each hyperparameter of the loss, likewise.
    """

    of: Any
    hessian: PerName
    mixed: PerName


def value_and_grad(
    loss_fn: Callable[..., Any], has_aux: bool = False, share: float = 1.0
) -> Callable[..., tuple[Any, Tree, dict[str, Any]]]:
    r"""The loss, its gradient, and what else the update of an online method needs of them.

    With L = ``loss_fn(·, batch)``, w = ``params``, and Z each tangent in ``state``::

        g = ∇L(w),    H Z = d/dr ∇L(w + r Z) at r = 0,    e = ∇E(w̄)

    E is the loss on ``val_batch`` where one is given, else on ``batch``; w̄ is
    :func:`hyperlr.eval_params`, which is w itself where no average is kept. g and H Z come from one
    ``jax.jvp`` of the gradient.

    In gradients of the same batch, a step costs 1 for g, 2 for H Z of each hyperparameter, and 1
    for e where that is not g; a few layers of a small network a little less, since the first layer
    has no input tangent. :func:`hyperlr.hd` needs no H Z and pays for none.

    Args:
      loss_fn: ``loss_fn(params, batch, *rest)``, the training loss as a scalar; or with ``has_aux``
        a pair (loss, auxiliary). For :func:`hyperlr.online` with ``loss_hyperparams`` it is called
        with the dict of their current values as one more positional argument, the last.
      has_aux: whether ``loss_fn`` returns a pair; default False.
      share: the part of the batch, in (0, 1], on which H Z is taken, and e where there is no
        ``val_batch``: that leading part of the first axis of each leaf of ``batch``. The examples
        should be in random order. A step then costs 1 + 3 · ``share`` gradients, or 1 + 4 ·
        ``share`` with an average, at which e is a gradient of its own. Default 1.

    Returns:
      A function ``(params, batch, *rest, state, val_batch=None) -> (value, grads, extra)``.
      ``value`` is what ``loss_fn`` returned, ``grads`` is like ``params``, and ``extra`` is a dict
      for ``tx.update(grads, state, params, **extra)``. ``state`` may be the state of any wrapper
      or chain that contains a method of hyperlr; where it contains none, this is
      ``jax.value_and_grad`` and ``extra`` holds ``value`` alone. Supports ``jit``, ``scan`` and
      ``vmap``.

    Raises:
      TypeError: the loss is not a scalar, or has a ``custom_vjp`` and the method was not built with
        ``hvp="reverse_over_reverse"``.
      ValueError: ``share`` is not in (0, 1], or the leaves of ``batch`` have no common first axis.

    Warns:
      UserWarning: ``optax.MultiSteps`` is around the method: it averages the gradients, but hands
        on the derivatives of the last microbatch alone. Accumulate inside the function that is
        given to :func:`hyperlr.linearize_grad` instead.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hyperlr
      >>> tx = hyperlr.marthe(optax.sgd, 0.01, hyper_learning_rate=1e-3)
      >>> loss_fn = lambda w, batch: jnp.mean((batch @ w - 1.0) ** 2)
      >>> params, batch = jnp.zeros(3), jnp.ones((8, 3))
      >>> state = tx.init(params)
      >>> for _ in range(3):
      ...     value, grads, extra = hyperlr.value_and_grad(loss_fn)(params, batch, state=state)
      ...     updates, state = tx.update(grads, state, params, **extra)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(hyperlr.metrics(state)["learning_rate"] > 0.01)
      True

    References:
      Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 1994; Donini et
      al., 2020, Algorithm 1.
    """
    _checks.check_fraction("share", share)

    def evaluate(
        params: Tree, batch: Tree, *rest: Any, state: optax.OptState, val_batch: Tree = None
    ) -> tuple[Any, Tree, dict[str, Any]]:
        methods = online_states(state)
        _warn_of_multi_steps(state, methods)
        of_loss = _loss_hyperparams(methods)
        rest = (*rest, of_loss) if of_loss else rest

        def scalar_loss(params: Tree, batch: Tree, *rest: Any) -> Any:
            result = loss_fn(params, batch, *rest)
            _checks.check_scalar_loss("loss_fn", result[0] if has_aux else result)
            return result

        differentiated = jax.value_and_grad(scalar_loss, has_aux=has_aux)

        def gradient_on(batch: Tree) -> Gradient:
            return lambda params: differentiated(params, batch, *rest)[::-1]

        def loss_on(batch: Tree) -> Callable[..., jax.Array]:
            def loss(params: Tree, of_loss: dict[str, jax.Array]) -> jax.Array:
                given = (*rest[:-1], of_loss) if of_loss else rest
                result = scalar_loss(params, batch, *given)
                return result[0] if has_aux else result

            return loss

        part = batch if share == 1.0 else _leading(batch, share)
        averaged = any(method.average is not None for method in methods)

        def with_derivatives(params: Tree) -> tuple[tuple[Tree, Any], tuple[list[Products], Tree]]:
            objective, at = None, params
            # A penalty is no objective of its own weight: that needs a validation batch.
            has_objective = val_batch is not None or not of_loss
            if val_batch is not None or (averaged and has_objective):
                on = part if val_batch is None else val_batch
                objective, _ = gradient_on(on)(eval_params(state, params))
                at = _after(objective, params)
            grads, result, products = _along(gradient_on(part), at, methods)
            if of_loss:
                products = _with_mixed(products, methods, loss_on(part), at, of_loss)
            if share != 1.0 and objective is None and has_objective:
                objective = grads
            return (grads, result), (products, objective)

        def alone() -> tuple[Tree, Any]:
            return gradient_on(batch)(params)

        if share == 1.0:
            found, derived = _when_due(methods, lambda: with_derivatives(params), alone)
        else:
            # Outside of a branch, where convolutions are slow on a CPU.
            found = alone()
            after = _after(found[0], params)
            _, derived = _when_due(
                methods, lambda: (None, with_derivatives(after)[1]), lambda: None
            )
        (grads, result), (products, objective) = found, derived
        extra = {"value": result[0] if has_aux else result}
        if products:
            extra["hessian_product"] = products
        if objective is not None:
            extra["val_grad"] = objective
        if any(method.settings.finds_first_rate for method in methods):
            extra["value_fn"] = lambda params: loss_on(batch)(params, of_loss)
        return result, grads, extra

    return evaluate


def linearize_grad(
    grad_fn: Callable[..., Any], params: Tree, state: optax.OptState, has_aux: bool = False
) -> tuple[Any, dict[str, Any]]:
    r"""A gradient of the caller's own making, with its derivative along the tangents in ``state``.

    Where the gradient is more than ``jax.grad`` of a loss, averaged over devices, accumulated over
    microbatches, scaled and unscaled, clipped, all of that is inside the derivative. With
    G = ``grad_fn`` and Z each tangent::

        g = G(w),    d/dr G(w + r Z) at r = 0

    Args:
      grad_fn: ``grad_fn(params)``, the gradient that is trained with, like ``params``; or with
        ``has_aux`` a pair (gradient, auxiliary). With ``loss_hyperparams`` it is called as
        ``grad_fn(params, hyperparams_of_the_loss)``.
      params: w.
      state: the state of a method of hyperlr, or of any wrapper or chain that contains one.
      has_aux: whether ``grad_fn`` returns a pair; default False.

    Returns:
      ``(grads, extra)``, or ``((grads, auxiliary), extra)``, with ``extra`` for
      ``tx.update(grads, state, params, **extra)``. The objective E is what ``grad_fn`` is the
      gradient of, at :func:`hyperlr.eval_params`; for another one, add its gradient:
      ``extra | {"val_grad": ...}``. Supports ``jit``, ``scan``, ``vmap``, ``pmap`` and
      ``shard_map``.

    Raises:
      TypeError: ``grad_fn`` has a ``custom_vjp`` inside, and the method was not built with
        ``hvp="reverse_over_reverse"``.

    Warns:
      UserWarning: as :func:`hyperlr.value_and_grad`.

    Example:
      Four microbatches, whose gradients are averaged.

      >>> import jax, jax.numpy as jnp, optax, hyperlr
      >>> tx = hyperlr.marthe(optax.sgd, 0.01, hyper_learning_rate=1e-3)
      >>> loss_fn = lambda w, batch: jnp.mean((batch @ w - 1.0) ** 2)
      >>> params, microbatches = jnp.zeros(3), jnp.ones((4, 8, 3))
      >>> state = tx.init(params)
      >>> def grad_fn(params):
      ...     grads = jax.lax.map(lambda batch: jax.grad(loss_fn)(params, batch), microbatches)
      ...     return jax.tree.map(lambda g: jnp.mean(g, axis=0), grads)
      >>> grads, extra = hyperlr.linearize_grad(grad_fn, params, state)
      >>> updates, state = tx.update(grads, state, params, **extra)

    References:
      As :func:`hyperlr.value_and_grad`.
    """
    methods = online_states(state)
    _warn_of_multi_steps(state, methods)
    of_loss = _loss_hyperparams(methods)
    given = (of_loss,) if of_loss else ()

    def gradient(params: Tree, *given: Any) -> tuple[Tree, Any]:
        result = grad_fn(params, *given)
        return result if has_aux else (result, None)

    def with_derivatives() -> tuple[tuple[Tree, Any], tuple[list[Products], Tree]]:
        objective, at = None, params
        if any(method.average is not None for method in methods):
            objective, _ = gradient(eval_params(state, params), *given)
            at = _after(objective, params)
        grads, aux, products = _along(lambda w: gradient(w, *given), at, methods)
        if of_loss:

            def mixed(name: str) -> Tree:
                direction = {k: jnp.full_like(v, k == name) for k, v in of_loss.items()}
                return jax.jvp(lambda h: gradient(params, h)[0], (of_loss,), (direction,))[1]

            products = [
                dataclasses.replace(
                    p, mixed=PerName((name, mixed(name)) for name in m.settings.loss_hyperparams)
                )
                for p, m in zip(products, methods, strict=True)
            ]
        return (grads, aux), (products, objective)

    (grads, aux), (products, objective) = _when_due(
        methods, with_derivatives, lambda: gradient(params, *given)
    )
    extra: dict[str, Any] = {"hessian_product": products} if products else {}
    if objective is not None:
        extra["val_grad"] = objective
    return ((grads, aux) if has_aux else grads), extra


def eval_params(state: optax.OptState, params: Tree) -> Tree:
    """The parameters to evaluate, and to keep: their average, where the state has one.

    Args:
      state: the state of any optimizer.
      params: the parameters that go with it.

    Returns:
      w̄ of :func:`hyperlr.online` with ``average``, found in any chain or wrapper, like ``params``;
      ``params`` itself where no average is kept, and in those of its leaves that are frozen by a
      mask around the method.

    Example:
      >>> import jax.numpy as jnp, optax, hyperlr
      >>> params = jnp.ones(3)
      >>> hyperlr.eval_params(optax.adam(0.1).init(params), params) is params
      True

    References:
      Polyak and Juditsky, 1992; Shamir and Zhang, 2013, for weights that grow with time.
    """
    for method in online_states(state):
        if method.average is not None:
            averaged = _trees.spread(method.average.params, params)
            params = _trees.cast_like(_trees.with_floats(params, averaged), params)
    return params


def _loss_hyperparams(methods: list[OnlineState]) -> dict[str, jax.Array]:
    """The hyperparameters of the loss at their current values."""
    return {
        name: method.hyperparams[name]
        for method in methods
        for name in method.settings.loss_hyperparams
    }


def _warn_of_multi_steps(state: optax.OptState, methods: list[OnlineState]) -> None:
    def is_multi_steps(node: Any) -> bool:
        return isinstance(node, optax.MultiStepsState)

    nodes = jax.tree.leaves(
        state, is_leaf=lambda n: is_multi_steps(n) or isinstance(n, OnlineState)
    )
    if methods and any(is_multi_steps(n) and online_states(n) for n in nodes):
        warnings.warn(
            "optax.MultiSteps averages the gradients of the microbatches, but hands on the "
            "derivatives of the last one alone: accumulate inside the function that is given to "
            "hyperlr.linearize_grad, and leave MultiSteps out",
            stacklevel=3,
        )


def _leading(batch: Tree, share: float) -> Tree:
    """The leading part of the first axis of every leaf that has one."""
    lengths = {x.shape[0] for x in jax.tree.leaves(batch) if jnp.ndim(x) > 0}
    if len(lengths) != 1:
        raise ValueError(
            f"share={share} takes a leading part of batch, so all of its arrays must have the same "
            f"first axis, got lengths {sorted(lengths)}: pass what has none in *rest"
        )
    [length] = lengths
    size = max(1, round(share * length))
    return jax.tree.map(lambda x: x[:size] if jnp.ndim(x) > 0 else x, batch)


def _when_due(
    methods: list[OnlineState],
    with_derivatives: Callable[[], tuple[Any, tuple[list[Products], Tree]]],
    without: Callable[[], Any],
) -> tuple[Any, tuple[list[Products], Tree]]:
    """Something and derivatives, in steps in which a method looks at them; else with zeros."""
    if not methods:
        return without(), ([], None)
    dues = [is_due(method) for method in methods]
    if any(due is True for due in dues):
        return with_derivatives()
    unused = jax.eval_shape(lambda: with_derivatives()[1])

    def plain() -> tuple[Any, tuple[list[Products], Tree]]:
        return without(), jax.tree.map(jnp.zeros_like, unused)

    return jax.lax.cond(functools.reduce(jnp.logical_or, dues), with_derivatives, plain)


def _after(first: Tree, params: Tree) -> Tree:
    """``params``, for what is to be computed after ``first``.

    Left alone, XLA takes two gradients side by side, and needs the memory of both.
    """
    return jax.lax.optimization_barrier((params, first))[0]


def _along(
    gradient: Gradient, params: Tree, methods: list[OnlineState]
) -> tuple[Tree, Any, list[Products]]:
    """The gradient, what comes with it, and its derivatives along the tangents of all methods."""
    names, tangents = [], []
    for number, method in enumerate(methods):
        if method.settings.needs_product:
            for name, tangent in method.tangent.items():
                names.append((number, name))
                tangents.append(_trees.spread(tangent.params, params))
    hvp = {method.settings.hvp for method in methods if method.settings.needs_product}
    if len(hvp) > 1:
        raise ValueError(f"the methods in state have several hvp, {sorted(hvp)}: give them one")
    grads, aux, along = derivatives(gradient, params, tangents, *hvp)
    products = dict(zip(names, along, strict=True))
    return (
        grads,
        aux,
        [
            Products(
                of=jax.tree.structure(method.tangent),
                hessian=PerName((k, x) for (n, k), x in products.items() if n == number),
                mixed=PerName({}),
            )
            for number, method in enumerate(methods)
        ]
        if products or _loss_hyperparams(methods)
        else [],
    )


def _with_mixed(
    products: list[Products],
    methods: list[OnlineState],
    loss: Callable[..., jax.Array],
    params: Tree,
    of_loss: dict[str, jax.Array],
) -> list[Products]:
    """The products, with the mixed derivatives of the hyperparameters of the loss."""
    return [
        dataclasses.replace(
            product,
            mixed=mixed_derivatives(loss, params, of_loss, method.settings.loss_hyperparams),
        )
        for product, method in zip(products, methods, strict=True)
    ]
