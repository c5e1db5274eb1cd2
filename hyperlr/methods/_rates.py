"""Which hyperparameters are rates: what the update is proportional to, whatever its name."""

import functools

import jax

from hyperlr import _dependence, _inner_step, _trees
from hyperlr._inner_step import Hyperparams, Inputs
from hyperlr._trees import Tree


def rates_of(step: _inner_step.Step, hyperparams: Hyperparams, inputs: Inputs) -> tuple[str, ...]:
    """The names of the rates, from the program of the inner step alone.

    The derivative of the update in a rate does not depend on the rate, but on the gradients. That
    in a weight decay does not depend on the gradients, and that in a momentum or an ε is not
    constant. ``learning_rate`` is a rate in any case, and nothing else where the program cannot be
    looked at.

    Args:
      step: Φ.
      hyperparams: those of the inner optimizer.
      inputs: of the shapes and dtypes that Φ will have; nothing is computed.
    """
    return tuple(
        name
        for name in hyperparams
        if name == "learning_rate" or _is_rate(step, name, hyperparams, inputs)
    )


def _is_rate(step: _inner_step.Step, name: str, hyperparams: Hyperparams, inputs: Inputs) -> bool:
    grads = _trees.floats_of(inputs.grads)

    def derivative(value: jax.Array, grads: Tree) -> Tree:
        at = inputs._replace(grads=_trees.with_floats(inputs.grads, grads))
        others = functools.partial(_with_one, step, hyperparams, name, at)
        return _inner_step.direct_tangents(others, {name: value})[1][name].params

    try:
        found = _dependence.tangent_dependence(derivative, hyperparams[name], grads)
    except (TypeError, ValueError):
        # Some optimizers need extra arguments that only an update has.
        return False
    return any(found) and not any(0 in sources for sources in found)


def _with_one(
    step: _inner_step.Step,
    hyperparams: Hyperparams,
    name: str,
    inputs: Inputs,
    one: Hyperparams,
) -> tuple[Tree, Tree]:
    return step({**hyperparams, name: one[name]}, inputs)
