"""Small runs of everything that can be interrupted, each for a process that may be killed.

    python scripts/checks/kill_targets.py mnist results

Imports are inside the functions, so that each process has no others than its own.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console


def optimize_schedule(out: Path) -> None:
    """LRS-OPT on a quadratic, with a checkpoint every other iteration."""
    import jax
    import jax.numpy as jnp
    import optax

    import hyperlr

    inputs = jax.random.normal(jax.random.key(0), (64, 3))

    def loss(weights: jax.Array, batch: jax.Array) -> jax.Array:
        return jnp.mean((batch @ (weights - 1.0)) ** 2)

    result = hyperlr.optimize_schedule(
        optax.sgd,
        jnp.zeros(3),
        jnp.full(8, 0.01),
        lambda key: inputs[jax.random.randint(key, (8, 4), 0, len(inputs))],
        loss,
        lambda weights: loss(weights, inputs),
        optimizer=optax.adam(0.01),
        num_iterations=41,
        key=jax.random.key(1),
        checkpoint_dir=out / "checkpoints",
        checkpoint_every=2,
    )
    leaves = {str(index): np.asarray(leaf) for index, leaf in enumerate(jax.tree.leaves(result))}
    with (out / "result.npz").open("wb") as file:
        np.savez(file, **leaves)


def mnist(out: Path) -> None:
    """Plain gradient descent, HD and LRS-OPT."""
    from hyperlr.experiments.digits.experiment import EXPERIMENT

    smoke = EXPERIMENT.presets["smoke"]
    settings = smoke._replace(
        numbers={name: smoke.numbers[name][:2] for name in ("constant", "hd")},
        lrs=smoke.lrs._replace(start="hd", num_iterations=6, evaluate_every=1),
    )
    _run(EXPERIMENT, settings, out)


def toy(out: Path) -> None:
    """The surfaces in the plane, for fewer steps."""
    from hyperlr.experiments.surfaces.experiment import EXPERIMENT

    _run(EXPERIMENT, EXPERIMENT.presets["smoke"], out)


def adaptive(out: Path) -> None:
    """The adaptive optimizers, for fewer steps."""
    from hyperlr.experiments.adaptive.experiment import EXPERIMENT

    _run(EXPERIMENT, EXPERIMENT.presets["smoke"], out)


def curvature(out: Path) -> None:
    """The measurements of curvature, on a small network."""
    from hyperlr.experiments.curvature.experiment import EXPERIMENT

    _run(EXPERIMENT, EXPERIMENT.presets["smoke"], out)


def robustness(out: Path) -> None:
    """Every method under momentum alone, on a small network."""
    from hyperlr.experiments.robustness.experiment import EXPERIMENT

    settings = EXPERIMENT.presets["smoke"]
    _run(EXPERIMENT, settings._replace(inner=("momentum",), betas=(1e-4,)), out)


def _run(experiment: Any, settings: Any, out: Path, data_dir: Path | None = None) -> None:
    from hyperlr.experiments.core import runner

    runner.run(experiment, settings, out, Console(quiet=True), data_dir=data_dir)


def cifar10(out: Path) -> None:
    """A fixed schedule, and MARTHE with the search for its step size, on noise."""
    _cifar("cifar10", "momentum", out)


def cifar100(out: Path) -> None:
    """The same, with a hundred classes and Adam."""
    _cifar("cifar100", "adam", out)


def _cifar(name: str, inner: str, out: Path) -> None:
    import flax.linen as nn
    import jax

    from hyperlr.experiments.cifar import experiment as cifar
    from hyperlr.experiments.data import cifar as data

    class Small(nn.Module):
        """Has batch normalization, as the large ones, and hardly any weights."""

        num_classes: int
        width: int

        @nn.compact
        def __call__(self, images: jax.Array, train: bool) -> jax.Array:
            hidden = nn.Dense(self.width)(images[:, ::8, ::8, :].reshape(len(images), -1))
            return nn.Dense(self.num_classes)(
                nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))
            )

    settings = cifar.Settings(
        num_seeds=2,
        methods=("staircase", "marthe"),
        num_epochs=8,
        steps_per_epoch=3,
        batch_size=8,
        width=4,
        eval_epochs=2,
        checkpoint_epochs=1,
        search_steps=6,
    )
    data_dir = out.with_name("data")
    _write_noise(data_dir, data.CIFAR10 if name == "cifar10" else data.CIFAR100)
    _run(cifar.make_experiment(name, inner, network=Small), settings, out, data_dir)


def _write_noise(data_dir: Path, form: Any) -> None:
    """Writes a data set of noise in the binary format."""
    from hyperlr.experiments.core import store

    folder = data_dir / form.folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for file, num in ((form.train_files[0], 120), (form.test_file, 20)):
        records = rng.integers(0, 256, (num, form.label_bytes + 3072), dtype=np.uint8)
        records[:, : form.label_bytes] %= 10
        with store.atomic_file(folder / file) as handle:
            handle.write(records.tobytes())


TARGETS: dict[str, Callable[[Path], None]] = {
    target.__name__: target
    for target in (
        optimize_schedule,
        mnist,
        toy,
        robustness,
        adaptive,
        curvature,
        cifar10,
        cifar100,
    )
}


if __name__ == "__main__":
    TARGETS[sys.argv[1]](Path(sys.argv[2]))
