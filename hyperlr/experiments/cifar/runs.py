"""A run from its first epoch, or from a checkpoint, to its last; and the search for κ."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hyperlr
from hyperlr.experiments.cifar import training
from hyperlr.experiments.cifar.methods import NUMBERS
from hyperlr.experiments.cifar.training import Program, Source, State
from hyperlr.experiments.core.errors import InputError
from hyperlr.experiments.core.experiment import Work
from hyperlr.experiments.core.store import open_checkpoints
from hyperlr.experiments.data import Data

# A network with batch normalization survives any learning rate without its loss leaving that of a
# guess, so the rate itself tells, too. Of a run, a hundred times the paper's η_0 counts as
# divergence; a trial of κ is short, and ten times is as far as it may come.
RUNAWAY = 100.0
TRIAL_RUNAWAY = 10.0

_NUM_CANDIDATES = 11  # of κ, by powers of ten
# A batched convolution is slow on a CPU. On a GPU four networks and their tangents fit in memory.
_CANDIDATES_AT_ONCE = 4

_RECORDS = ("train_loss", "learning_rate", "hypergradient", "discount", "hyper_learning_rate")
_CURVES = ("step", "val_loss", "val_accuracy", "test_loss", "test_accuracy")


class Settings(NamedTuple):
    """Size of the experiment; the defaults are the paper's."""

    num_seeds: int = 5
    """Seeds 0, 1, … of the split, the initial weights, the minibatches and their augmentation."""
    methods: tuple[str, ...] = tuple(NUMBERS)
    """Keys of NUMBERS."""
    num_epochs: int = 200
    steps_per_epoch: int = 0
    """0: as many as the training images fill."""
    batch_size: int = 128
    """Images in a minibatch of L, and of E."""
    width: int = 64
    """Filters of the network's first layer; the others are in proportion."""
    eval_epochs: int = 1
    """Epochs between two evaluations."""
    checkpoint_epochs: int = 5
    """Epochs between two checkpoints."""
    search_steps: int = 200
    """Steps of a trial of κ."""


class Run(NamedTuple):
    """One method on one seed."""

    program: Program
    schedule: np.ndarray
    """float32 [T]: learning rates of a fixed schedule, or η_0 throughout."""
    step_size: float
    """β, κ or γ of an online method; traced, as `schedule` is, so that neither compiles anew."""
    runaway: float
    """Learning rate above which the run counts as diverged."""
    seed: int
    size: Settings
    """As `make_size` gives them: `steps_per_epoch` is not 0."""


class History(NamedTuple):
    """What was recorded, written in place; NaN where a run has not come to."""

    records: dict[str, np.ndarray]
    """Scalars of every step, float32 [T] each."""
    curves: dict[str, np.ndarray]
    """Evaluations, float32 [K] each."""
    num_steps: np.ndarray
    """int32 scalar, how many steps were made."""


def train(run: Run, data: Data, work: Work) -> History:
    """Trains from the last checkpoint, where there is one, to the end of the last epoch.

    A run that has diverged ends there. Every evaluation is logged, those of the checkpoint again.
    """
    size = run.size
    source = training.make_source(data, run.seed)
    test = jnp.asarray(data.test_images), jnp.asarray(data.test_labels), *source[2:4]
    test_indices = np.arange(len(data.test_labels), dtype=np.int32)
    sets = {"val": (source[:4], source.val_indices), "test": (test, test_indices)}
    state, history, first = _start(run), empty_history(size), 0
    with open_checkpoints(work.checkpoints) as checkpoints:
        found = checkpoints.restore((state, history))
        if found is not None:
            first, (state, history) = found
            history = jax.tree.map(np.array, history)  # to be written to
            work.advance(first / size.num_epochs)
            for k in np.flatnonzero(np.isfinite(history.curves["step"])).tolist():
                work.log(_evaluation(history, k))
        for epoch in range(first, size.num_epochs):
            if diverged(run, history):
                break
            state = train_epoch(run, source, state, history, epoch)
            done, last = epoch + 1, epoch + 1 == size.num_epochs
            if done % size.eval_epochs == 0 or last:
                k = -(-done // size.eval_epochs) - 1
                history.curves["step"][k] = done * size.steps_per_epoch
                for name, images in sets.items():
                    loss, accuracy = training.evaluate(run.program, state, *images)
                    history.curves[f"{name}_loss"][k] = loss
                    history.curves[f"{name}_accuracy"][k] = accuracy
                work.log(_evaluation(history, k))
            if not last and (done % size.checkpoint_epochs == 0 or diverged(run, history)):
                checkpoints.save(done, (state, history))
            work.advance(1 / size.num_epochs)
    return history


def train_epoch(run: Run, source: Source, state: State, history: History, epoch: int) -> State:
    """Makes the steps of an epoch, and writes them into the history."""
    num_steps = run.size.steps_per_epoch
    minibatches = training.epoch_minibatches(
        source, run.seed, epoch, num_steps, run.size.batch_size
    )
    records = []
    for i, pair in enumerate(zip(*minibatches, strict=True)):
        step = epoch * num_steps + i
        numbers = run.schedule[step], np.float32(run.step_size)
        state, record = training.train_step(
            run.program, state, source[:4], pair, np.uint32(run.seed), np.int32(step), *numbers
        )
        records.append(record)
    # Fetched at the end of the epoch: a number looked at in every step would hold up the device.
    for i, record in enumerate(jax.device_get(records)):
        for name, value in record.items():
            if name in history.records:
                history.records[name][epoch * num_steps + i] = value
    history.num_steps[...] = (epoch + 1) * num_steps
    return state


def search_step_size(run: Run, data: Data, num_steps: int) -> float:
    """Returns the largest step size with which the first steps go well, with a margin of ten.

    The procedure of Section 4 of the paper for κ. A step size is lost where a loss or a rate is not
    finite, where the loss exceeds twice the first one, or where the rate runs away.
    The step size of the run is the largest that is tried, in a trial of `num_steps`; the others are
    a tenth of the one before.

    Raises:
      InputError: no step size was small enough.
    """
    source = training.make_source(data, run.seed)
    size = run.size
    epochs = [
        training.epoch_minibatches(source, run.seed, epoch, size.steps_per_epoch, size.batch_size)
        for epoch in range(-(-num_steps // size.steps_per_epoch))
    ]
    minibatches = jax.tree.map(
        lambda *drawn: jnp.asarray(np.concatenate(drawn)[:num_steps]), *epochs
    )
    seed, runaway = np.uint32(run.seed), run.runaway * TRIAL_RUNAWAY / RUNAWAY
    rate = jnp.asarray(run.schedule[0])  # η_0, all that an online method reads of it

    def first_steps(step_size: jax.Array) -> jax.Array:
        def step(carry: tuple[State, jax.Array], of_step: Any) -> Any:
            state, lost = carry
            number, pair = of_step

            def make(state: State) -> tuple[State, jax.Array]:
                state, record = training.train_step(
                    run.program, state, source[:4], pair, seed, number, rate, step_size
                )
                fine = record["learning_rate"] <= runaway
                return state, jnp.where(fine, record["train_loss"], jnp.nan)

            # What is lost makes no more steps; side by side with others, it goes along with them.
            state, loss = jax.lax.cond(lost, lambda state: (state, jnp.nan), make, state)
            return (state, ~jnp.isfinite(loss)), loss

        state = training.init(run.program, seed, rate, step_size)
        numbers = jnp.arange(num_steps, dtype=jnp.int32)
        return jax.lax.scan(step, (state, jnp.asarray(False)), (numbers, minibatches))[1]

    candidates = [run.step_size / 10**k for k in range(_NUM_CANDIDATES)]
    at_once = 1 if jax.default_backend() == "cpu" else _CANDIDATES_AT_ONCE
    try:
        return hyperlr.find_step_size(first_steps, candidates, batch_size=at_once).value
    except hyperlr.NoSurvivorError as error:
        raise InputError(f"no step size goes well; look at the data: {error}") from error


def diverged(run: Run, history: History) -> bool:
    """Whether a loss or a learning rate of the steps made is not finite, or the rate ran away."""
    made = slice(0, int(history.num_steps))
    losses, rates = history.records["train_loss"][made], history.records["learning_rate"][made]
    finite = np.isfinite(losses).all() and np.isfinite(rates).all()
    return not finite or bool((rates > run.runaway).any())


def ends_exploded(history: History) -> bool:
    """Whether the last validation loss is finite, but more than twice the first training loss.

    That is what the search for the step size calls lost. A run may come back from it, and goes on.
    """
    return bool(history.curves["val_loss"][-1] > 2 * history.records["train_loss"][0])


def empty_history(size: Settings) -> History:
    """Returns a history of a run that has not begun."""
    num_steps = size.num_epochs * size.steps_per_epoch
    num_evaluations = -(-size.num_epochs // size.eval_epochs)
    return History(
        {name: np.full(num_steps, np.nan, np.float32) for name in _RECORDS},
        {name: np.full(num_evaluations, np.nan, np.float32) for name in _CURVES},
        np.zeros((), np.int32),
    )


def _start(run: Run) -> State:
    rates = run.schedule[0], np.float32(run.step_size)
    return training.init(run.program, np.uint32(run.seed), *rates)


def _evaluation(history: History, k: int) -> dict[str, float]:
    """The scalars of an evaluation, with the records of the step before it."""
    step = int(history.curves["step"][k])
    records = {name: float(history.records[name][step - 1]) for name in _RECORDS}
    return {"step": step} | records | {name: float(history.curves[name][k]) for name in _CURVES[1:]}
