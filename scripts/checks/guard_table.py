"""Online methods under the guard, with step sizes over twelve decades and any starting point.

Trains a network on the digits that come with the install, with every method, inner optimizer, step
size (β, κ or γ) and initial learning rate, with the guard and without; all of one method and inner
optimizer side by side in one compiled program. The table counts the runs that end with parameters
that are not finite, and those that end with a loss above the initial one, on the images that they
train on: after the last update, and at the `good_params` that the guard ends with.

    python scripts/checks/guard_table.py --steps 200 --json guard.json
"""

import argparse
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import hyperlr
from hyperlr.experiments import data, training
from hyperlr.experiments.methods import METHODS

INNER = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": hyperlr.optimizers.adam,  # optax.adam has no derivative at zero gradients
}
STARTS = (1e-6, 1e-3, 1e-1, 1.0, 10.0, 100.0)
DECADES = 13


def under_guard(make: Callable[..., Any], explosion: float, *arguments: Any) -> Any:
    """A method under the guard."""
    return hyperlr.guard(make(*arguments), explosion=explosion)


# Method → the exponent of its smallest β, κ or γ.
FIRST = {"hd": -8, "rtho": -8, "marthe": -10, "marthe_scale_free": -6}


def run(
    digits: data.Data,
    seed: int,
    make: Callable[..., Any],
    inner: Any,
    first: int,
    num_steps: int,
    width: int,
) -> dict[str, np.ndarray]:
    """Trains all pairs of a step size and a start; arrays [13, starts]."""
    pairs = list(itertools.product((10.0**e for e in range(first, first + DECADES)), STARTS))
    lanes = training.make_lanes(
        digits,
        [seed] * len(pairs),
        pairs,
        num_steps=num_steps,
        batch_size=100,
        hidden_widths=(width,),
    )
    trained_on, _ = data.split_indices(digits, seed)

    def lane(pixels: Any, labels: Any, one: training.Lanes) -> Any:
        def make_optimizer(pair: Any) -> Any:
            return make(inner, pair[1], pair[0])

        params, pair = one.params, one.step_sizes
        trained, state, _ = training.train_steps(
            make_optimizer,
            params,
            make_optimizer(pair).init(params),
            pair,
            pixels,
            labels,
            one.train_batches,
            one.val_batches,
        )
        good = getattr(state, "good_params", trained)
        losses = [training.loss_fn(w, pixels, labels, trained_on) for w in (params, trained, good)]
        finite = jnp.stack([jnp.isfinite(w).all() for w in jax.tree.leaves(trained)]).all()
        rollbacks = hyperlr.metrics(state).get("num_rollbacks", jnp.zeros((), jnp.int32))
        return finite, *losses, rollbacks

    @jax.jit
    def train(pixels: Any, labels: Any, lanes: training.Lanes) -> Any:
        # Not all at a time: a loss on all images takes memory.
        return jax.lax.map(functools.partial(lane, pixels, labels), lanes, batch_size=26)

    finite, before, after, good, rollbacks = train(digits.images, digits.labels, lanes)
    arrays = {
        "finite": finite,
        "before": before,
        "after": after,
        "good": good,
        "rollbacks": rollbacks,
    }
    return {name: np.asarray(x).reshape(DECADES, len(STARTS)) for name, x in arrays.items()}


def main() -> None:
    """Trains, prints the table, and writes JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="training steps (default 200)")
    parser.add_argument("--width", type=int, default=100, help="hidden units (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
    parser.add_argument("--explosion", type=float, default=2.0, help="of the guard (default 2)")
    parser.add_argument("--inner", choices=INNER, nargs="+", default=list(INNER))
    parser.add_argument("--json", type=Path, help="also write all losses to this file")
    arguments = parser.parse_args()
    digits = data.load_packaged()
    results: dict[str, Any] = {}
    cases = list(itertools.product(FIRST, arguments.inner, (False, True)))
    for method, inner, guarded in track(cases, "training"):
        made = METHODS[method].online
        if guarded:
            made = functools.partial(under_guard, made, arguments.explosion)
        results[f"{method} | {inner} | {guarded}"] = run(
            digits,
            arguments.seed,
            made,
            INNER[inner],
            FIRST[method],
            arguments.steps,
            arguments.width,
        )
    Console(width=125).print(table(results, arguments.steps))
    if arguments.json:
        plain = {k: {n: x.tolist() for n, x in v.items()} for k, v in results.items()}
        arguments.json.write_text(json.dumps(plain, indent=2) + "\n")


def table(results: dict[str, dict[str, np.ndarray]], num_steps: int) -> Table:
    """One row a method and inner optimizer, without the guard and with it."""
    title = f"{DECADES * len(STARTS)} runs of {num_steps} steps a row; without the guard → with it"
    view = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("method, step sizes", "inner"):
        view.add_column(heading, no_wrap=True)
    for heading in (
        "not\nfinite",
        "above the\nfirst loss",
        "of good\nparams",
        "worst /\nfirst",
        "median\nloss",
        "most\nrollbacks",
    ):
        view.add_column(heading, justify="right", no_wrap=True)
    for method, inner in dict.fromkeys(tuple(key.split(" | ")[:2]) for key in results):
        bare, guarded = (results[f"{method} | {inner} | {which}"] for which in (False, True))
        first, name = FIRST[method], f"{METHODS[method].label}, {METHODS[method].symbol}"
        view.add_row(
            f"{name}: 1e{first} … 1e{first + DECADES - 1}",
            inner,
            " → ".join(str(int((~each["finite"]).sum())) for each in (bare, guarded)),
            " → ".join(str(_num_above(each, "after")) for each in (bare, guarded)),
            str(_num_above(guarded, "good")),
            f"{(guarded['after'] / guarded['before']).max():.2f}",
            " → ".join(_short(each["after"]) for each in (bare, guarded)),
            str(guarded["rollbacks"].max()),
        )
    return view


def _num_above(result: dict[str, np.ndarray], which: str) -> int:
    """How many runs have a loss that is above the initial one, or no number."""
    return int((~(result[which] <= result["before"])).sum())


def _short(losses: np.ndarray) -> str:
    return f"{np.median(np.nan_to_num(losses, nan=np.inf)):.3g}"


if __name__ == "__main__":
    main()
