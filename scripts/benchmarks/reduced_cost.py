"""MARTHE at less than its full cost: what that does to the time, the schedule and the accuracy.

Two ways to trade exactness for time, alone and together:

- `share`: the Hessian-vector product and the objective are of the first part of their minibatches,
  while the gradient of the step is of all of them;
- `every=k`: between two full updates the inner optimizer makes plain steps at the learning rate as
  it is. Larger κ and γ make up for the updates that are left out.

Every variant trains the 784-500-500-500-10 network of `hyperlr mnist` on the digits that come with
the install, from the same weights and on the same minibatches, seed by seed. Times are of the whole
loop, interleaved with plain steps; a ratio is the median of the ratios of the rounds.

    python scripts/benchmarks/reduced_cost.py --seeds 5 --rounds 7 --json reduced_cost.json
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from steps import time_rounds

import hyperlr
from hyperlr.experiments import data, training
from hyperlr.experiments.networks import mlp

RATE, BATCH = 0.01, 100
TIMED_STEPS = 32


class Variant(NamedTuple):
    """A way to save."""

    name: str
    share: float = 1.0
    """Share of both minibatches in the product and in the objective."""
    every: int = 1
    """Steps from one full update to the next."""
    larger: tuple[float, float] = (1.0, 1.0)
    """Factors of κ and γ."""


VARIANTS = (
    Variant("exact"),
    Variant("share 1/2", share=1 / 2),
    Variant("share 1/4", share=1 / 4),
    Variant("share 1/8", share=1 / 8),
    Variant("every 2", every=2),
    Variant("every 4", every=4),
    Variant("every 8", every=8),
    Variant("every 4, 16 κ, 2 γ", every=4, larger=(16.0, 2.0)),
    Variant("every 2, share 1/4", share=1 / 4, every=2),
    Variant("every 2, share 1/4, 4 κ, 2 γ", share=1 / 4, every=2, larger=(4.0, 2.0)),
)
METHODS: dict[str, Callable[[Variant], Any]] = {
    "adapted": lambda variant: hyperlr.marthe(
        optax.sgd, RATE, meta_learning_rate=1e-8 * variant.larger[0], every=variant.every
    ),
    "scale-free": lambda variant: hyperlr.marthe(
        optax.sgd,
        RATE,
        discount=0.99,
        hyper_optimizer=hyperlr.exponentiated_gradient(0.2 * variant.larger[1]),
        every=variant.every,
    ),
}

Step = Callable[..., tuple[Any, Any, jax.Array]]
"""(params, state, images, labels, train, val) → (params, state, η); train and val are indices."""


def make_step(tx: Any, variant: Variant) -> Step:
    """A training step that learns η."""

    def loss_fn(params: Any, indices: Any, images: Any, labels: Any) -> jax.Array:
        return training.loss_fn(params, images, labels, indices)

    def step(params: Any, state: Any, images: Any, labels: Any, train: Any, val: Any) -> Any:
        _, grads, extra = hyperlr.value_and_grad(loss_fn, share=variant.share)(
            params,
            train,
            images,
            labels,
            state=state,
            val_batch=val[: round(variant.share * len(val))],
        )
        updates, state = tx.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
        return params, state, hyperlr.metrics(state)["learning_rate"]

    return step


def plain_step(params: Any, state: Any, images: Any, labels: Any, train: Any, val: Any) -> Any:
    """The plain optax step."""
    del val
    grads = jax.grad(training.loss_fn)(params, images, labels, train)
    updates, state = optax.sgd(RATE).update(grads, state, params)
    return optax.apply_updates(params, updates), state, jnp.asarray(RATE)


def learn(step: Step, tx: Any, images: data.Data, seeds: int, num_steps: int) -> dict[str, Any]:
    """Trains seed by seed; schedules [seeds, T], accuracies [seeds]."""
    pixels, labels = jnp.asarray(images.images), jnp.asarray(images.labels)

    @jax.jit
    def run(params: Any, pixels: Any, labels: Any, train: Any, val: Any) -> Any:
        def body(carry: Any, batches: Any) -> Any:
            *carry, rate = step(*carry, pixels, labels, *batches)
            return tuple(carry), rate

        return jax.lax.scan(body, (params, tx.init(params)), (train, val))

    @jax.jit
    def accuracy(params: Any, pixels: Any, labels: Any) -> jax.Array:
        return mlp.accuracy(mlp.apply_mlp(params, data.as_inputs(pixels)), labels)

    schedules, val_accuracy, test_accuracy = [], [], []
    for seed in range(seeds):
        lanes = training.make_lanes(
            images,
            [seed],
            [0.0],
            num_steps=num_steps,
            batch_size=BATCH,
            hidden_widths=mlp.HIDDEN_WIDTHS,
        )
        one = jax.tree.map(lambda x: x[0], lanes)
        (params, _), rates = run(one.params, pixels, labels, one.train_batches, one.val_batches)
        schedules.append(np.asarray(rates))
        val = one.val_indices
        val_accuracy.append(float(accuracy(params, pixels[val], labels[val])))
        test_accuracy.append(float(accuracy(params, images.test_images, images.test_labels)))
    return {
        "schedules": np.stack(schedules),
        "val_accuracy": np.array(val_accuracy),
        "test_accuracy": np.array(test_accuracy),
    }


def time_ratios(steps: dict[str, tuple[Step, Any]], images: data.Data, rounds: int) -> dict:
    """Median ratio of the times of a loop to that of the plain loop, which is the first."""
    pixels, labels = jnp.asarray(images.images), jnp.asarray(images.labels)
    rng = np.random.default_rng(0)
    batches = rng.integers(len(labels), size=(TIMED_STEPS, 2, BATCH), dtype=np.int32)
    widths = (pixels.shape[1], *mlp.HIDDEN_WIDTHS, images.num_classes)
    params = mlp.init_mlp(jax.random.key(0), widths)
    runs = []
    for step, tx in track(steps.values(), "compiling"):
        state = tx.init(params)
        compiled = jax.jit(step).lower(params, state, pixels, labels, *batches[0]).compile()

        def run(compiled: Any = compiled, state: Any = state) -> None:
            w = params
            for train, val in batches:
                w, state, _ = compiled(w, state, pixels, labels, train, val)
            jax.block_until_ready(w)

        runs.append(run)
    seconds = time_rounds(runs, rounds)
    ratios = np.median(seconds / seconds[:, :1], axis=0)
    return dict(zip(steps, map(float, ratios), strict=True))


def main() -> None:
    """Measures, prints the table, and writes JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds of the accuracies (default 5)")
    parser.add_argument("--steps", type=int, default=512, help="training steps (default 512)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of timing (default 7)")
    parser.add_argument("--only", nargs="+", help="variants beside the exact one (default all)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    images = data.load_packaged()
    chosen = [v for v in VARIANTS if arguments.only is None or v.name in ("exact", *arguments.only)]
    plain = optax.with_extra_args_support(optax.sgd(RATE))
    steps: dict[str, tuple[Step, Any]] = {"plain": (plain_step, plain)}
    for method, make in METHODS.items():
        for variant in chosen:
            tx = make(variant)
            steps[f"{method}, {variant.name}"] = make_step(tx, variant), tx
    ratios = time_ratios(steps, images, arguments.rounds)
    results = {}
    for name, (step, tx) in track(steps.items(), "training"):
        results[name] = learn(step, tx, images, arguments.seeds, arguments.steps)
        results[name]["time_ratio"] = ratios[name]
    Console(width=110).print(table(results, arguments))
    if arguments.json:
        plain_results = {
            name: {key: np.asarray(value).tolist() for key, value in result.items()}
            for name, result in results.items()
        }
        arguments.json.write_text(json.dumps(plain_results) + "\n")


def table(results: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> Table:
    """One row a variant; its schedule is compared with the exact one of the same method."""
    title = f"{arguments.steps} steps, {arguments.seeds} seeds; ± is the spread over seeds"
    view = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    view.add_column("MARTHE", no_wrap=True)
    for heading in (
        "time /\nplain",
        "validation\naccuracy",
        "test\naccuracy",
        "mean\nη",
        "schedule off\nby a factor",
    ):
        view.add_column(heading, justify="right", no_wrap=True)
    for name, result in results.items():
        exact = results.get(f"{name.split(', ')[0]}, exact", result)
        view.add_row(
            name,
            f"{result['time_ratio']:.2f}",
            *(_percent(result[key]) for key in ("val_accuracy", "test_accuracy")),
            f"{result['schedules'].mean():.3f}",
            f"{_factor(result['schedules'], exact['schedules']):.2f}",
        )
    return view


def _percent(shares: np.ndarray) -> str:
    return f"{100 * shares.mean():.1f} ± {100 * shares.std(ddof=min(1, len(shares) - 1)):.1f}"


def _factor(schedules: np.ndarray, exact: np.ndarray) -> float:
    """The typical quotient of two learning rates of one step, the larger by the smaller."""
    tiny = 1e-6  # a rate may be 0
    return float(np.exp(np.abs(np.log((schedules + tiny) / (exact + tiny))).mean()))


if __name__ == "__main__":
    main()
