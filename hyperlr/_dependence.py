"""Which derivatives of a function are zero whatever the numbers, from its program alone."""

import itertools
from collections.abc import Callable
from typing import Any

import jax

Dependence = list[frozenset[int]]


def tangent_dependence(function: Callable[..., Any], *args: Any) -> Dependence:
    """For every output of ``function``, the inputs in which its derivative is not known to be 0.

    Args:
      function: of trees of floating-point arrays, to such a tree.
      *args: its arguments, or their shapes and dtypes; nothing is computed.

    Returns:
      For each leaf of the output, in order, the indices of leaves of ``args``. It may name too many
      (all inputs of a loop go into all of its outputs), and never too few.
    """
    primals = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)

    def pushforward(primals: Any, tangents: Any) -> Any:
        return jax.jvp(function, primals, tangents)[1]

    program = jax.make_jaxpr(pushforward)(primals, primals).jaxpr
    num_inputs = len(jax.tree.leaves(primals))
    sources: Dependence = [frozenset()] * num_inputs + [frozenset([i]) for i in range(num_inputs)]
    return _flow(program, sources)


def _flow(program: Any, sources: Dependence) -> Dependence:
    """The sources of every output of a jaxpr, given those of its inputs."""
    known = dict(zip(program.invars, sources, strict=True))

    def of(atom: Any) -> frozenset[int]:
        # Literals hold a value; they and the constants of the program come from no input.
        return frozenset() if hasattr(atom, "val") else known.get(atom, frozenset())

    for equation in program.eqns:
        inputs = [of(atom) for atom in equation.invars]
        known |= zip(equation.outvars, _flow_of_equation(equation, inputs), strict=True)
    return [of(atom) for atom in program.outvars]


def _flow_of_equation(equation: Any, inputs: Dependence) -> Dependence:
    everything = frozenset().union(*inputs)
    if not everything:
        return [everything] * len(equation.outvars)
    if equation.primitive.name == "cond":
        predicate, *operands = inputs
        branches = [_flow(branch.jaxpr, operands) for branch in equation.params["branches"]]
        return [predicate.union(*sources) for sources in zip(*branches, strict=True)]
    # jit, checkpoint, custom_jvp and their like: one inner program with the same inputs.
    called = [
        getattr(value, "jaxpr", value)
        for key, value in equation.params.items()
        if key in ("jaxpr", "call_jaxpr")
    ]
    is_loop = equation.primitive.name in ("scan", "while")
    if len(called) == 1 and not is_loop and len(called[0].invars) == len(inputs):
        return _flow(called[0], inputs)
    return [everything] * len(equation.outvars)


def reachable(dependence: Dependence, start: set[int], feedback: dict[int, set[int]]) -> set[int]:
    """The outputs that the ``start`` inputs reach, in this step or in any number of later ones.

    Args:
      dependence: from :func:`tangent_dependence`.
      start: inputs with a tangent of their own.
      feedback: for an output, the inputs that have a tangent in the next step where it has one.
    """
    live, reached = set(start), set[int]()
    while True:
        found = {i for i, sources in enumerate(dependence) if sources & live}
        if found == reached:
            return reached
        reached = found
        live |= set(itertools.chain.from_iterable(feedback[i] for i in reached))
