"""The one runner of all experiments: what is missing is computed, and all of it is written.

The same command goes on where an earlier one stopped: each finished part is on disk under a digest
of what determines it, and a part that is too long for that keeps checkpoints.
"""

import functools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from hyperlr.experiments.core import progress, store, tables
from hyperlr.experiments.core.errors import InputError
from hyperlr.experiments.core.experiment import Arrays, Experiment, Part, Results, Work, pack
from hyperlr.experiments.core.log import Log


def settings_of(experiment: Experiment, preset: str, changes: Mapping[str, Any]) -> Any:
    """Returns the settings of a preset, with changes in place of its own.

    A change is what an option gives: None, or a list that is empty, where it is left out.

    Raises:
      InputError: seeds are given to an experiment that has none.
    """
    settings = experiment.presets[preset]
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in changes.items()
        if value not in (None, [])
    }
    if "num_seeds" in given and "num_seeds" not in settings._fields:
        raise InputError(
            f"--seeds: {experiment.name} draws nothing that another seed would change; leave it out"
        )
    return settings._replace(**given)


def run(
    experiment: Experiment,
    settings: Any,
    out: Path,
    console: Console,
    *,
    data_dir: Path | None = None,
    preset: str | None = None,
    tensorboard: bool = False,
) -> None:
    """Runs an experiment, or what is left of it, and writes its results.

    These are metrics.json, schedules.npz, figures, and README.md, which says what they show.

    Args:
      experiment: what to run.
      settings: of the type of its presets.
      out: directory of the results; made where it is missing.
      console: where the progress and the tables go.
      data_dir: where the data are; None for the default place.
      preset: the name of the preset that the settings come from, for the record.
      tensorboard: whether what is watched on the way goes to event files, too.

    Raises:
      InputError: data cannot be read, or `out` cannot be written.
    """
    store.prepare_output(out)
    data = experiment.load(data_dir)
    try:
        arrays = complete(experiment, settings, data, out, console, tensorboard)
    except KeyboardInterrupt:
        console.print(f"Interrupted: the same command goes on from here ({out})", soft_wrap=True)
        raise
    results = Results(settings, data, arrays)
    summary = experiment.summarize(results)
    config = {
        "experiment": experiment.name,
        "preset": preset,
        **_of_data(data),
        **settings._asdict(),
        **summary.config,
        "versions": store.versions(),
        "device": jax.devices()[0].device_kind,
    }
    summary = summary._replace(config=config)
    _write(experiment, results, summary, out)
    shown = experiment.table(summary)
    if preset == "smoke":
        shown[-1].caption = tables.TOO_SHORT
    for table in shown:
        console.print(table)
    console.print(f"Results in {out}", soft_wrap=True)


def complete(
    experiment: Experiment,
    settings: Any,
    data: Any,
    out: Path,
    console: Console,
    tensorboard: bool = False,
) -> dict[str, Arrays]:
    """Returns what all parts came to; those that are not on disk are computed and stored.

    Args are those of `run`.

    Warns:
      RuntimeWarning: a finished part is damaged, and so is computed again.
    """
    parts = list(experiment.parts(settings, data))
    folder = out / store.PARTS
    common = {
        "experiment": experiment.name,
        # Where the data lie does not matter.
        "data": store.digest(*(x for x in data or () if not isinstance(x, str))),
        "versions": store.versions(),
    }
    arrays: dict[str, Arrays] = {}
    missing = []
    for part in parts:
        known = all(name in arrays for name in part.needs)
        found = store.load_part(_path(folder, part, common, arrays)) if known else None
        if found is None:
            missing.append((part, known))
        else:
            arrays[part.name] = found
    if not missing:
        return arrays
    total = sum(part.cost for part, _ in missing)
    unit = experiment.unit_seconds(settings, data) if experiment.unit_seconds else None
    seconds = None if unit is None else unit * total
    _announce(folder, len(parts), len(missing), seconds, console)
    log = Log(out, tensorboard)
    with progress.bar(console, seconds) as bar:
        task = bar.add_task("", total=total)
        for part, known in missing:
            bar.update(task, description=part.label)
            path = _path(folder, part, common, arrays)
            # What it needs may be made anew, and have come to what it was before.
            found = None if known else store.load_part(path)
            done = 0.0

            def advance(share: float, cost: float = part.cost) -> None:
                nonlocal done
                done += share
                bar.advance(task, share * cost)

            if found is None:
                watch, needed = functools.partial(log.write, path.stem), _needed(part, arrays)
                work = Work(needed, advance, watch, store.checkpoints_of(path))
                found = _finish(part, path, work)
            advance(1.0 - done)
            arrays[part.name] = found
        bar.update(task, description="all")
    log.close()
    return {part.name: arrays[part.name] for part in parts}


def compute(experiment: Experiment, settings: Any, data: Any) -> Results:
    """Computes all parts and keeps nothing on disk: for tests, and for other programs."""
    arrays: dict[str, Arrays] = {}
    for part in experiment.parts(settings, data):
        work = Work(needed=_needed(part, arrays))
        arrays[part.name] = {"seconds": 0.0, **pack(part.compute(work))}
    return Results(settings, data, arrays)


def _finish(part: Part, path: Path, work: Work) -> dict[str, Any]:
    """Computes a part, stores it, and returns it as it is read back."""
    start = time.perf_counter()
    computed = part.compute(work)
    store.save_part(path, {"seconds": time.perf_counter() - start, **pack(computed)})
    stored = store.load_part(path)
    assert stored is not None
    return stored


def _path(
    folder: Path, part: Part, common: Mapping[str, Any], arrays: Mapping[str, Arrays]
) -> Path:
    needed = {
        name: {key: store.digest(array) for key, array in each.items()}
        for name, each in _needed(part, arrays).items()
    }
    determined_by = {**common, "part": part.name, "settings": part.settings, "needs": needed}
    return store.part_path(folder, part.name, determined_by)


def _needed(part: Part, arrays: Mapping[str, Arrays]) -> dict[str, Arrays]:
    """Returns what a part has said that it reads, as far as it is there, and nothing else."""
    return {
        name: {key: arrays[name][key] for key in keys if key in arrays[name]}
        for name, keys in part.needs.items()
    }


def _announce(
    folder: Path, num_parts: int, num_missing: int, seconds: float | None, console: Console
) -> None:
    """Says what is there already, and how long the rest will take."""
    there = num_parts - num_missing
    if there:
        console.print(f"{there} of {num_parts} parts are finished in {folder}", soft_wrap=True)
    elif any(folder.glob("*.npz")):
        console.print(
            f"The parts in {folder} are of other settings, and are left alone: starting anew",
            soft_wrap=True,
        )
    if seconds is not None:
        console.print(f"This will take about {progress.in_words(seconds)} on this machine")


def _write(experiment: Experiment, results: Results, summary: Any, out: Path) -> None:
    """Writes all files of the results."""
    content = {"config": summary.config, "methods": summary.methods}
    with store.atomic_file(out / "metrics.json") as file:
        text = json.dumps(store.plain(content), indent=2, allow_nan=False)
        file.write(text.encode() + b"\n")
    for name, arrays in summary.arrays.items():
        store.write_arrays(out / f"{name}.npz", arrays)
    shown = experiment.figures(results)
    for each in shown:
        with store.atomic_file(out / f"{each.name}.png") as file:
            each.figure.savefig(file, format="png", dpi=150)
    notes = [tables.TOO_SHORT] if summary.config["preset"] == "smoke" else []
    if "num_seeds" in results.settings._fields and "num_test" in summary.config:
        num_seeds, num_test = results.settings.num_seeds, summary.config["num_test"]
        worth = tables.worth_of_seeds(num_seeds, num_test)
        notes.append(f"Data: {results.data.source}; {tables.seeds(num_seeds)}. {worth}")
    with store.atomic_file(out / "README.md") as file:
        file.write(tables.page(experiment.title, shown, notes).encode())


def _of_data(data: Any) -> dict[str, Any]:
    """What metrics.json says of the data."""
    if data is None:
        return {}
    sizes = {name: getattr(data, name) for name in ("num_train", "num_val")}
    return {"data": data.source, **sizes, "num_test": len(data.test_labels)}
