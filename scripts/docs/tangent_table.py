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

import hyperlr

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "tangents.md"
LEARNING_RATE = 0.02
NUM_STEPS = 8  # RAdam divides by √v from the sixth on.
Factory = Callable[[Any], optax.GradientTransformation]

# Aliases of optax that are not in the table, and why.
LEFT_OUT = {
    "lbfgs": "searches along a line",
    "polyak_sgd": "sets its own rate from the value of the loss",
    "optimistic_adam": "is the old name of `optimistic_adam_v2`",
}

# Optimizers of optax in other settings than their defaults, or without an alias of their own.
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
    aliases = {
        name: function
        for name, function in vars(optax).items()
        if inspect.isfunction(function)
        and name not in LEFT_OUT
        and next(iter(inspect.signature(function).parameters), "") == "learning_rate"
        and "GradientTransformation" in str(function.__annotations__.get("return"))
        and not name.startswith(("_", "scale_by"))
    }
    return dict(sorted({**aliases, **VARIANTS}.items()))


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
    tx = make(rate)

    def step(carry: tuple[Any, Any], batch: tuple[Any, Any]) -> tuple[Any, None]:
        params, state = carry
        weight, targets = batch
        grads = jax.grad(_loss)(params, bias, rows, weight, targets)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), (weights, jnp.asarray(_TARGETS)))
    return _flat(params)


def _flat(tree: Any) -> jax.Array:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def verdicts_of_runs(make: Factory) -> list[str]:
    """For each of CASES, whether ``jax.jvp`` has the derivative of what is trained in the rate."""

    def everything(bias: Any, rows: Any, weights: Any) -> tuple[jax.Array, ...]:
        def run(rate: Any, params: Any) -> jax.Array:
            return _trained(make, rate, params, bias, rows, weights)

        h, params = 1e-5 * LEARNING_RATE, _initial_params()
        # The initial parameters have a tangent, too: zero, and multiplied like any other.
        zero = jax.tree.map(jnp.zeros_like, params)
        value, tangent = jax.jvp(run, (LEARNING_RATE, params), (1.0, zero))
        rates = LEARNING_RATE + h * jnp.array([1.0, -1.0])
        above, below = jax.vmap(run, in_axes=(0, None))(rates, params)
        return value, tangent, (above - below) / (2 * h)

    arrays = map(jnp.asarray, (_BIAS, _ROWS, _WEIGHTS))
    cases = zip(*map(np.asarray, jax.jit(jax.vmap(everything))(*arrays)), strict=True)
    return [_verdict(*case) for case in cases]


def _verdict(value: np.ndarray, tangent: np.ndarray, difference: np.ndarray) -> str:
    if not np.isfinite(value).all():
        return NAN_VALUE
    if not np.isfinite(tangent).all():
        return NAN
    return RIGHT if np.allclose(tangent, difference, rtol=1e-4, atol=1e-5) else WRONG


def verdict_of_slope(make: Factory) -> str:
    """Whether ``jax.jvp`` has the slope of the first update, in the gradients, at zero ones."""
    tx, params = make(LEARNING_RATE), _initial_params()
    state = tx.init(params)
    direction = jax.tree.map(jnp.cos, params)

    def update(scale: Any) -> jax.Array:
        grads = jax.tree.map(lambda d: scale * d, direction)
        return _flat(tx.update(grads, state, params)[0])

    def everything() -> tuple[jax.Array, ...]:
        value, tangent = jax.jvp(update, (0.0,), (1.0,))
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
    """The verdicts of an optimizer: one for each of CASES, and one for the slope."""
    return (*verdicts_of_runs(make), verdict_of_slope(make))


def page(progress: Callable[[str], None] = lambda name: None) -> str:
    """The whole of docs/tangents.md."""
    lines = ["# Tangents at zero gradients", "", *_paragraphs(_INTRODUCTION)]
    lines += _table("`hyperlr.optimizers`", hyperlr_optimizers(), progress)
    lines += _table(f"`optax` {optax.__version__}", optax_optimizers(), progress)
    left_out = "; ".join(f"`{name}` {why}" for name, why in LEFT_OUT.items())
    lines += _paragraphs(f"{_CONCLUSION}\n\nNot in the table: {left_out}.")
    return "\n".join(lines)


def _table(
    title: str, optimizers: dict[str, Factory], progress: Callable[[str], None]
) -> Iterator[str]:
    yield f"| {title} | " + " | ".join((*CASES, "slope")) + " |"
    yield "| --- " * (2 + len(CASES)) + "|"
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
RTHO, MARTHE and LRS-OPT differentiate through the optimizer. Where a gradient is exactly zero many
optimizers have no derivative: √v at v = 0, |g| at g = 0, a norm at 0. The product of the infinite
slope with the zero tangent is NaN, and one NaN spoils the hypergradient. `hd` is not concerned: it
only needs the derivative of the update in the learning rate.

Every optimizer trains a small network for eight steps in float64, at its defaults. The derivative
of the trained parameters in the learning rate, by `jax.jvp`, is compared with central differences:

- dead unit: a ReLU whose input is negative for every example;
- unused row: an embedding that no batch uses;
- empty first batch: a first loss that is zero, with all of its gradients.

The last column is the slope of the first update in the gradients, at zero gradients: what a
parameter needs whose gradient is zero at this point and nowhere else. Where the update *jumps*, as
a sign does, there is no slope, and no method can learn from it.
"""

_CONCLUSION = """
*Wrong* tangents are finite and raise no alarm. Where the slope is large but true (1/√ε), it is
because the update really turns that fast: a larger ε is a gentler optimizer.

What to do: use `hyperlr.optimizers`, or pass `eps_root` to those of optax that take it, as
`functools.partial(optax.adamw, eps_root=1e-16)`.
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
