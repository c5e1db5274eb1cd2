"""Time, FLOPs and memory of one training step of each online method, beside the plain optax step.

Every case is compiled for the 784-500-500-500-10 network at batch 100, and run interleaved with the
plain step of the same inner optimizer, so that the noise of the machine falls on both. A ratio of
times is the median of the ratios of the rounds.

    python scripts/benchmarks/online.py --rounds 100 --json benchmark.json

With --donate, parameters and state are donated to the step. That saves memory, and on GPU and TPU
costs nothing. On CPU, XLA protects a donated buffer that is read and overwritten in one program by
copying it, twice for some of our state, so there it is the slower way.
"""

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import hyperlr
from hyperlr.experiments import models

WIDTHS = (784, 500, 500, 500, 10)
BATCH = 100
RATE = 0.01
RULE = hyperlr.adaptive_sgd(0.0, 1e-9)

INNER = {
    "SGD": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "Adam": functools.partial(optax.adam, eps_root=1e-12),
}


class Case(NamedTuple):
    """One row of the table."""

    inner: str
    method: str
    objective: str
    product: str
    tx: optax.GradientTransformationExtraArgs


def cases() -> list[Case]:
    """The plain step of every inner optimizer, and after each its hypergradient methods."""
    rows = []
    for name, inner in INNER.items():
        rows.append(Case(name, "plain", "", "", optax.with_extra_args_support(inner(RATE))))
        for objective in ("E = L", "val."):
            rows.append(Case(name, "HD", objective, "", hyperlr.hd(inner, RATE, 1e-9)))
            for product in ("exact", "diff."):
                tx = hyperlr.online(
                    inner,
                    {"learning_rate": RATE},
                    hyper_optimizer=RULE,
                    hvp="forward_over_reverse" if product == "exact" else "finite_difference",
                )
                rows.append(Case(name, "MARTHE", objective, product, tx))
    return rows + cases_of_several_hyperparameters()


def cases_of_several_hyperparameters() -> list[Case]:
    """One, two and three hyperparameters of one optimizer, each with its tangent."""
    name, values = "decay + m.", {"learning_rate": RATE, "momentum": 0.9, "weight_decay": 1e-4}

    def inner(learning_rate: Any, momentum: Any, weight_decay: Any) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=momentum)
        )

    rows = [Case(name, "plain", "", "", optax.with_extra_args_support(inner(**values)))]
    for count in range(1, len(values) + 1):
        learned = dict(list(values.items())[:count])
        fixed = {key: value for key, value in values.items() if key not in learned}
        tx = hyperlr.online(functools.partial(inner, **fixed), learned, hyper_optimizer=RULE)
        rows.append(Case(name, f"MARTHE of {count}", "E = L", "exact", tx))
    return rows


def compile_step(case: Case, params: models.Params, batches: tuple, donate: bool) -> Any:
    """The compiled training step."""

    def loss(params: models.Params, batch: tuple) -> jax.Array:
        images, labels = batch
        return models.cross_entropy(models.apply_mlp(params, images), labels)

    def step(params: models.Params, state: optax.OptState, train: tuple, val: tuple) -> tuple:
        value_fn = functools.partial(loss, batch=train)
        grads = jax.grad(value_fn)(params)
        extra = {} if case.method == "plain" else {"value_fn": value_fn}
        if case.objective == "val.":
            extra["val_grad"] = jax.grad(loss)(params, val)
        updates, state = case.tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(step, donate_argnums=(0, 1) if donate else ())
    return jitted.lower(params, case.tx.init(params), *batches).compile()


def measure(rows: list[Case], rounds: int, donate: bool) -> list[dict[str, Any]]:
    """Runs ``rounds`` rounds of all cases of each inner optimizer; a dict for each case."""
    keys = jax.random.split(jax.random.key(0), 5)
    params = models.init_mlp(keys[0], WIDTHS)
    batches = tuple(
        (
            jax.random.uniform(keys[i], (BATCH, WIDTHS[0])),
            jax.random.randint(keys[i + 1], (BATCH,), 0, WIDTHS[-1]),
        )
        for i in (1, 3)
    )
    steps = [compile_step(case, params, batches, donate) for case in track(rows, "compiling")]
    carries = [(jax.tree.map(jax.numpy.copy, params), case.tx.init(params)) for case in rows]
    persistent = [sum(x.nbytes for x in jax.tree.leaves(carry)) for carry in carries]
    seconds = np.zeros((rounds + 1, len(rows)))
    for r in track(range(rounds + 1), "timing"):
        for i, step in enumerate(steps):
            start = time.perf_counter()
            carries[i] = jax.block_until_ready(step(*carries[i], *batches))
            seconds[r, i] = time.perf_counter() - start
    seconds = seconds[1:]  # the first round touches every buffer for the first time

    results = []
    for i, case in enumerate(rows):
        plain = next(
            j for j, row in enumerate(rows) if row.inner == case.inner and row.method == "plain"
        )
        flops = [steps[j].cost_analysis()["flops"] for j in (i, plain)]
        results.append(
            {
                **{key: value for key, value in case._asdict().items() if key != "tx"},
                "milliseconds": 1e3 * float(np.median(seconds[:, i])),
                "time_ratio": float(np.median(seconds[:, i] / seconds[:, plain])),
                "flops_ratio": flops[0] / flops[1],
                "state_megabytes": persistent[i] / 1e6,
                "temporary_megabytes": steps[i].memory_analysis().temp_size_in_bytes / 1e6,
            }
        )
    return results


def table(results: list[dict[str, Any]]) -> Table:
    """The results, one row each; the state includes the parameters."""
    title = "One step of 784-500-500-500-10 at batch 100, beside the plain optax step"
    view = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("inner", "method", "objective", "product"):
        view.add_column(column, no_wrap=True)
    for column in ("time\nms", "time\nratio", "FLOP\nratio", "state\nMB", "temp.\nMB"):
        view.add_column(column, justify="right", no_wrap=True)
    for row in results:
        view.add_row(
            *(row[key] for key in ("inner", "method", "objective", "product")),
            f"{row['milliseconds']:.2f}",
            f"{row['time_ratio']:.2f}",
            f"{row['flops_ratio']:.3f}",
            f"{row['state_megabytes']:.1f}",
            f"{row['temporary_megabytes']:.1f}",
        )
    return view


def main() -> None:
    """Measures, prints the table, and writes JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100, help="rounds of timing (default 100)")
    parser.add_argument("--donate", action="store_true", help="donate parameters and state")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    results = measure(cases(), arguments.rounds, arguments.donate)
    Console().print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
