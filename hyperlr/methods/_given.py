"""The derivatives that the caller gives to an update, as its state and its wrapper want them."""

from collections.abc import Callable

import jax

from hyperlr import _checks, _derivatives, _trees
from hyperlr._inner_step import Hyperparams
from hyperlr._linearize import Products, eval_params
from hyperlr._state import OnlineState, PerName
from hyperlr._trees import Tree


def derivatives_of_step(
    state: OnlineState,
    given: list[Products] | None,
    value_fn: Callable[..., jax.Array] | None,
    loss: Callable[..., jax.Array] | None,
    params: Tree,
    of_loss: Hyperparams,
) -> Products | None:
    """The derivatives of the gradient that this step needs, from outside or from ``value_fn``."""
    if not state.settings.needs_product and not of_loss:
        return None
    if given is not None:
        return _matching(given, state, params)
    value_fn, loss = _checks.required_value_fn(value_fn), _checks.required_value_fn(loss)
    if _trees.is_masked_tree(params):
        raise ValueError(
            "value_fn takes the whole parameters, and a mask around the method (optax.masked, "
            "optax.partition) shows it a part of them only: call update(grads, state, params, "
            "**extra) with value, grads, extra = hyperlr.value_and_grad(loss_fn)(params, batch, "
            "state=state)"
        )
    names = list(state.tangent) if state.settings.needs_product else []
    _, _, along = _derivatives.derivatives(
        _derivatives.gradient_of(loss, params),
        params,
        [state.tangent[name].params for name in names],
        state.settings.hvp,
    )
    return Products(
        of=jax.tree.structure(state.tangent),
        hessian=PerName(zip(names, along, strict=True)),
        mixed=_derivatives.mixed_derivatives(
            value_fn, params, of_loss, state.settings.loss_hyperparams
        )
        if of_loss
        else PerName({}),
    )


def _matching(given: list[Products], state: OnlineState, params: Tree) -> Products:
    """Those of the products that belong to this state, as a wrapper shows the parameters."""
    structure = jax.tree.structure(state.tangent)
    found = given if len(given) == 1 else [p for p in given if p.of == structure]
    if len(found) != 1:
        raise ValueError(
            f"hessian_product has {len(found)} entries for this state: pass what "
            "hyperlr.value_and_grad or linearize_grad returned for the whole state, in which no "
            "two methods may have the same parameters"
        )
    [products] = found

    def shown(trees: PerName) -> PerName:
        return PerName((name, _trees.fitted(tree, params)) for name, tree in trees.items())

    return Products(products.of, shown(products.hessian), shown(products.mixed))


def objective_grad(
    val_grad: Tree | None,
    grads: Tree,
    loss: Callable[..., jax.Array] | None,
    state: OnlineState,
    params: Tree,
) -> Tree:
    """∇E as a wrapper shows the parameters; with none given, that of the loss, at the average."""
    if val_grad is None and state.average is None:
        return grads
    if val_grad is None:
        if loss is None or _trees.is_masked_tree(params):
            raise ValueError(
                "val_grad is missing: where an average is kept the objective is taken there, and "
                "grads are those at params. Call update(grads, state, params, **extra) with value, "
                "grads, extra = hyperlr.value_and_grad(loss_fn)(params, batch, state=state)"
            )
        gradient, _ = _derivatives.gradient_of(loss, params)(eval_params(state, params))
        return gradient
    val_grad = _trees.fitted(val_grad, params)
    val_grad = _trees.without_float0(val_grad, params)
    _checks.check_same_tree("val_grad", val_grad, "params", params)
    return val_grad
