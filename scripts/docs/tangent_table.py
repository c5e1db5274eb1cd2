"""Writes docs/tangents.md: what each optimizer's tangent is at exactly zero gradients.

Run it again when optax or an optimizer changes: ``python scripts/docs/tangent_table.py``.
"""

import functools
import inspect
import pathlib
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

import hyperlr

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "tangents.md"
LEARNING_RATE = 0.02
NUM_STEPS = 8  # RAdam divides by √v from the sixth on.
Factory = Callable[[Any], optax.GradientTransformation]

# Aliases that are not in the tables, and why.
LEFT_OUT = {
    "dpsgd": "adds noise, and takes a gradient for each example",
    "lbfgs": "searches along a line",
    "noisy_sgd": "adds noise of which the rate sets the size",
    "optimistic_adam": "is the old name of `optimistic_adam_v2`",
    "polyak_sgd": "sets its own rate from the value of the loss",
    "rprop": "takes the rate for its first step sizes alone, which is an error at `init`",
    "sophia": "estimates the curvature at random points, of a function that it asks for",
}

# Optimizers in other settings than their defaults, or without an alias of their own.
CONTRIB_VARIANTS: dict[str, Factory] = {
    "mechanize(sgd)": lambda rate: contrib.mechanize(optax.sgd(rate)),
    "schedule_free(sgd)": lambda rate: contrib.schedule_free(optax.sgd(rate), rate),
}
VARIANTS: dict[str, Factory] = {
    "sgd, momentum": functools.partial(optax.sgd, momentum=0.9),
    "sgd, nesterov": functools.partial(optax.sgd, momentum=0.9, nesterov=True),
    "adagrad, initial_accumulator_value=0": functools.partial(
        optax.adagrad, initial_accumulator_value=0.0
    ),
    "adam, eps_root=1e-16": functools.partial(optax.adam, eps_root=1e-16),
    "adamw, eps_root=1e-16": functools.partial(optax.adamw, eps_root=1e-16),
    "nadam": optax.nadam,
    "nadamw": optax.nadamw,
    "rmsprop, eps_in_sqrt=False": functools.partial(optax.rmsprop, eps_in_sqrt=False),
    "rmsprop, momentum": functools.partial(optax.rmsprop, momentum=0.9),
}

RIGHT, NAN, WRONG, JUMPS, NAN_VALUE = "right", "**NaN**", "**wrong**", "jumps", "**update NaN**"


def optax_optimizers() -> dict[str, Factory]:
    """Every alias of the installed optax whose first argument is the learning rate."""
    return dict(sorted({**_aliases(optax), **VARIANTS}.items()))


def contrib_optimizers() -> dict[str, Factory]:
    """Likewise of ``optax.contrib``."""
    return dict(sorted({**_aliases(contrib), **CONTRIB_VARIANTS}.items()))


def _aliases(module: Any) -> dict[str, Factory]:
    return {
        name: function
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and name not in LEFT_OUT
        and next(iter(inspect.signature(function).parameters), "") == "learning_rate"
        and "GradientTransformation" in str(function.__annotations__.get("return"))
        and not name.startswith(("_", "scale_by"))
    }


def hyperlr_optimizers() -> dict[str, Factory]:
    """Every factory of hyperlr.optimizers."""
    return {
        name: getattr(hyperlr.optimizers, name)
        for name in sorted(hyperlr.optimizers.__all__)
        if name.islower() and not name.startswith(("scale_by_", "sparsity_"))
    }


# Three runs, each with one reason for zero gradients, as rows of these arrays.

CASES = ("dead unit", "unused row", "empty first batch")
# Added to the bias of the second hidden unit.
_BIAS = np.array([-100.0, 0.0, 0.0])
# Which embeddings the batches use, [cases, examples].
_ROWS = np.array([[0, 1, 2, 1], [0, 1, 0, 1], [0, 1, 2, 1]])
# Of the loss of every step, [cases, steps].
_WEIGHTS = np.ones((3, NUM_STEPS))
_WEIGHTS[2, 0] = 0.0
_TARGETS = np.random.default_rng(1).normal(size=(NUM_STEPS, 4))


def _initial_params() -> dict[str, jax.Array]:
    rng = np.random.default_rng(2)
    shapes = {"embedding": (3, 2), "hidden": (2, 2), "bias": (2,), "out": (2,)}
    return {name: jnp.asarray(1 + 0.3 * rng.normal(size=shape)) for name, shape in shapes.items()}


def _loss(params: Any, bias: Any, rows: Any, weight: Any, targets: Any) -> jax.Array:
    shift = jnp.array([0.0, 1.0]) * bias
    hidden = params["embedding"][rows] @ params["hidden"] + (params["bias"] + shift)[None]
    return weight * jnp.mean((jax.nn.relu(hidden) @ params["out"] - targets) ** 2)


def _trained(
    make: Factory, rate: Any, params: Any, bias: Any, rows: Any, weights: Any
) -> jax.Array:
    """The parameters after NUM_STEPS steps; an optax loop like any other."""
    tx = optax.with_extra_args_support(make(rate))

    def step(carry: tuple[Any, Any], batch: tuple[Any, Any]) -> tuple[Any, None]:
        params, state = carry
        weight, targets = batch
        value, grads = jax.value_and_grad(_loss)(params, bias, rows, weight, targets)
        updates, state = tx.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), (weights, jnp.asarray(_TARGETS)))
    return _flat(params)


def _learned_tangent(make: Factory, params: Any, bias: Any, rows: Any, weights: Any) -> jax.Array:
    """Z after NUM_STEPS steps, as RTHO has it, at a rate that is held."""
    tx = hyperlr.rtho(_by_name(make), LEARNING_RATE, 0.0)

    def loss(params: Any, batch: tuple[Any, Any]) -> jax.Array:
        return _loss(params, bias, rows, *batch)

    def step(carry: tuple[Any, Any], batch: tuple[Any, Any]) -> tuple[Any, None]:
        params, state = carry
        _, grads, extra = hyperlr.value_and_grad(loss)(params, batch, state=state)
        updates, state = tx.update(grads, state, params, **extra)
        return (optax.apply_updates(params, updates), state), None

    batches = (weights, jnp.asarray(_TARGETS))
    (_, state), _ = jax.lax.scan(step, (params, tx.init(params)), batches)
    return _flat(state.tangent["learning_rate"].params)


def _by_name(make: Factory) -> Callable[..., optax.GradientTransformation]:
    return lambda learning_rate: make(learning_rate)


def _flat(tree: Any) -> jax.Array:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _schedule_tangent(make: Factory, params: Any, bias: Any, rows: Any, weights: Any) -> jax.Array:
    """The derivative of the trained parameters in the rate of all steps, backwards as LRS-OPT."""

    def loss(params: Any, batch: tuple[Any, Any]) -> jax.Array:
        return _loss(params, bias, rows, *batch)

    def run(rate: Any) -> jax.Array:
        schedule = jnp.full(NUM_STEPS, rate)
        batches = (weights, jnp.asarray(_TARGETS))
        return _flat(hyperlr.unroll(_by_name(make), params, schedule, batches, loss)[0])

    return jax.jacrev(run)(LEARNING_RATE)


def verdicts_of_runs(make: Factory) -> list[str]:
    """For each of CASES, whether Z is the derivative of what is trained in the rate.

    First as the online methods have it, and then as LRS-OPT does.
    """

    def everything(bias: Any, rows: Any, weights: Any) -> tuple[jax.Array, ...]:
        h, params = 1e-5 * LEARNING_RATE, _initial_params()

        def run(rate: Any) -> jax.Array:
            return _trained(make, rate, params, bias, rows, weights)

        above, below = jax.vmap(run)(LEARNING_RATE + h * jnp.array([1.0, -1.0]))
        learned = _learned_tangent(make, params, bias, rows, weights)
        scheduled = _schedule_tangent(make, params, bias, rows, weights)
        return run(LEARNING_RATE), learned, scheduled, (above - below) / (2 * h)

    arrays = map(jnp.asarray, (_BIAS, _ROWS, _WEIGHTS))
    values, learned, scheduled, differences = map(
        np.asarray, jax.jit(jax.vmap(everything))(*arrays)
    )
    return [
        _verdict(*case)
        for tangents in (learned, scheduled)
        for case in zip(values, tangents, differences, strict=True)
    ]


def _verdict(value: np.ndarray, tangent: np.ndarray, difference: np.ndarray) -> str:
    if not np.isfinite(value).all():
        return NAN_VALUE
    if not np.isfinite(tangent).all():
        return NAN
    return RIGHT if np.allclose(tangent, difference, rtol=1e-4, atol=1e-5) else WRONG


def verdict_of_slope(make: Factory) -> str:
    """Whether hyperlr has the slope of the first update, in the gradients, at zero ones."""
    tx, params = optax.with_extra_args_support(make(LEARNING_RATE)), _initial_params()
    state = tx.init(params)
    direction = jax.tree.map(jnp.cos, params)

    def update(scale: Any) -> jax.Array:
        grads = jax.tree.map(lambda d: scale * d, direction)
        return _flat(tx.update(grads, state, params, value=jnp.ones(()))[0])

    def loss(params: Any, scale: Any) -> jax.Array:
        """Its gradients are those of ``update``, and its value is 1."""
        moving = optax.tree.vdot(direction, params)
        return 1.0 + scale * (moving - jax.lax.stop_gradient(moving))

    def moved(scale: Any) -> jax.Array:
        schedule = jnp.full(1, LEARNING_RATE)
        batches = jnp.reshape(scale, (1,))
        return _flat(hyperlr.unroll(_by_name(make), params, schedule, batches, loss)[0])

    def everything() -> tuple[jax.Array, ...]:
        value, tangent = update(0.0), jax.jvp(moved, (0.0,), (1.0,))[1]
        # Far below every eps, on the scale of which updates bend.
        steps = jnp.array([1e-13, 1e-14])
        differences = jax.vmap(lambda h: (update(h) - update(-h)) / (2 * h))(steps)
        return value, tangent, differences

    value, tangent, (difference, finer) = map(np.asarray, jax.jit(everything)())
    if not np.isfinite(value).all():
        return NAN_VALUE
    if not np.allclose(difference, finer, rtol=1e-2, atol=1e-2):
        return JUMPS
    if not np.isfinite(tangent).all():
        return NAN
    # Updates of order one, as weight decay makes them, leave only so many digits.
    rounding = 1e-16 / 1e-14 * (1 + np.abs(value).max())
    right = np.allclose(tangent, difference, rtol=1e-2, atol=0.1 + rounding)
    return RIGHT if right else WRONG


def row(make: Factory) -> tuple[str, ...]:
    """The verdicts of an optimizer: two for each of CASES, and one for the slope."""
    return (*verdicts_of_runs(make), verdict_of_slope(make))


def page(progress: Callable[[str], None] = lambda name: None) -> str:
    """The whole of docs/tangents.md."""
    lines = ["# Tangents at zero gradients", "", *_paragraphs(_INTRODUCTION)]
    lines += _table("`hyperlr.optimizers`", hyperlr_optimizers(), progress)
    lines += _table(f"`optax` {optax.__version__}", optax_optimizers(), progress)
    lines += _table(f"`optax.contrib` {optax.__version__}", contrib_optimizers(), progress)
    left_out = "; ".join(f"`{name}` {why}" for name, why in LEFT_OUT.items())
    lines += _paragraphs(f"{_CONCLUSION}\n\nNot in the table: {left_out}.")
    return "\n".join(lines)


def _table(
    title: str, optimizers: dict[str, Factory], progress: Callable[[str], None]
) -> Iterator[str]:
    columns = (*CASES, *(f"{case}, schedule" for case in CASES), "slope")
    yield f"| {title} | " + " | ".join(columns) + " |"
    yield "| --- " * (2 + 2 * len(CASES)) + "|"
    for name, make in optimizers.items():
        progress(name)
        yield f"| {name} | " + " | ".join(row(make)) + " |"
    yield ""


def _paragraphs(text: str) -> Iterable[str]:
    for paragraph in text.strip().split("\n\n"):
        if paragraph.startswith("- "):
            items = paragraph.split("\n- ")
            fill = functools.partial(textwrap.fill, width=100, subsequent_indent="  ")
            yield "\n".join(fill("- " + " ".join(i.removeprefix("- ").split())) for i in items)
        else:
            yield textwrap.fill(" ".join(paragraph.split()), 100)
        yield ""


_INTRODUCTION = """
RTHO, MARTHE, `auto` and LRS-OPT differentiate through the optimizer. Where a gradient is exactly
zero many optimizers have no derivative: √v at v = 0, a norm at 0. As JAX has it, the product of the
infinite slope with a tangent of zero is NaN. In hyperlr the root of 0 has the derivative 0, since
what is 0 there has been so all along: the weight is dead, or nothing has come yet. What else is not
finite in the derivative of a step the online methods replace by what the rate does directly, B, in
the entries in which it happens. `hd` is not concerned: it only needs the derivative of the update
in the learning rate.

Every optimizer trains a small network for eight steps in float64, at its defaults. The derivative
of the trained parameters in the learning rate is compared with central differences, as RTHO has it,
and as LRS-OPT has it, backwards through the steps (the columns with *schedule*):

- dead unit: a ReLU whose input is negative for every example;
- unused row: an embedding that no batch uses;
- empty first batch: a first loss that is zero, with all of its gradients.

The last column is the slope of the first update in the gradients at zero ones: what a parameter
needs whose gradient is zero at this point and nowhere else. Where the update *jumps*, as a sign
does, there is no slope, and only what the rate does in the step itself (B) is left to learn from;
`hd` uses nothing else, and the other methods warn.
"""

_CONCLUSION = """
*Wrong* tangents are finite and raise no alarm. Where the slope is large but true (1/ε), it is
because the update really turns that fast: a larger ε is a gentler optimizer.

Backwards a `jnp.where` is NaN if a branch of it is not finite, even the one that is not taken, as
with `radam`, `momo` and `momo_adam`, and with `lamb` where a whole array is dead. Forwards it is
not: they are right with `hyperlr.schedule_hypergradient(..., mode="forward")`, and with the online
methods.

What to do where a column of yours is not *right*: use `hyperlr.optimizers`, or learn with
`hyperlr.hd`, which takes no derivative through the optimizer's state.
"""


def main() -> None:
    """Writes the page."""
    jax.config.update("jax_enable_x64", True)
    text = page(progress=lambda name: print(name, flush=True))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
