"""Section 6: whole runs of a very small network."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems.cifar import Tiny
from rich.console import Console
from typer.testing import CliRunner

from hyperlr.experiments.cifar import experiment as cifar
from hyperlr.experiments.cifar import runs, training
from hyperlr.experiments.cifar.methods import NUMBERS
from hyperlr.experiments.cli import app
from hyperlr.experiments.core import runner
from hyperlr.experiments.core.errors import InputError
from hyperlr.experiments.core.experiment import Work
from hyperlr.experiments.data.cifar import CIFAR10, load
from hyperlr.experiments.methods import METHODS

SMALL = cifar.Settings(
    num_seeds=1,
    num_epochs=4,
    steps_per_epoch=3,
    batch_size=8,
    width=4,
    eval_epochs=2,
    checkpoint_epochs=2,
    search_steps=12,
)
TASK = cifar.Task(CIFAR10, Tiny, "momentum")


@pytest.fixture(scope="module")
def images(cifar_dir):
    return load(CIFAR10, cifar_dir)


def make_run(images, name="marthe", **settings):
    return cifar.make_run(TASK, SMALL._replace(**settings), images, name)


def first_steps(images, val_shift):
    run = make_run(images)._replace(schedule=np.full(12, 0.1, np.float32), step_size=1e-3)
    source = training.make_source(images, run.seed)
    source = source._replace(val_indices=np.roll(source.val_indices, val_shift))
    state = runs._start(run)
    history = runs.empty_history(run.size)
    return runs.train_epoch(run, source, state, history, 0), history


def test_the_validation_minibatch_moves_the_rate_and_not_the_running_statistics(images):
    states, histories = zip(*(first_steps(images, shift) for shift in (0, 3)), strict=True)
    rates = [history.records["learning_rate"][:3] for history in histories]
    assert rates[0][2] != rates[1][2]
    # η is 0.1 in the first two steps (β starts at 0), so the third training pass saw the same.
    np.testing.assert_array_equal(rates[0][:2], rates[1][:2])
    jax.tree.map(np.testing.assert_array_equal, *(state.batch_stats for state in states))


def test_weight_decay_is_in_the_loss_and_not_in_the_objective(images, monkeypatch):
    weight_decay = 0.5
    monkeypatch.setattr(training, "WEIGHT_DECAY", weight_decay)
    training.train_step.clear_cache()
    run = make_run(images, "hd", steps_per_epoch=1, batch_size=12)
    source = training.make_source(images, 0)
    state, history = runs._start(run), runs.empty_history(run.size)
    params = [jax.tree.map(np.asarray, state.params)]
    for epoch in range(2):
        state = runs.train_epoch(run, source, state, history, epoch)
        params.append(jax.tree.map(np.asarray, state.params))
    training.train_step.clear_cache()
    apply, variables = run.program.network.apply, {"batch_stats": state.batch_stats}

    def loss(params, shown, labels):
        output, _ = apply(variables | {"params": params}, shown, train=True, mutable="batch_stats")
        return -jnp.mean(jax.nn.log_softmax(output)[jnp.arange(len(labels)), labels])

    # SGD's first step is −0.1 ∇L: L at w_0 has the penalty,
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 1), 0)
    (train,), _ = training.epoch_minibatches(source, 0, 0, 1, 12)
    shown = training.augment(key, source.images[train])
    shown = training.normalize(shown, source.mean, source.deviation)
    expected = jax.tree.map(
        lambda g, w: g + weight_decay * w,
        jax.grad(loss)(params[0], shown, source.labels[train]),
        params[0],
    )
    found = jax.tree.map(lambda before, after: (before - after) / 0.1, params[0], params[1])
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), found, expected
    )
    # and E at w_1 has none: Δη_1 = −⟨∇L(w_0), ∇E(w_1)⟩. The validation set is one minibatch here.
    val_inputs = training.normalize(
        source.images[source.val_indices], source.mean, source.deviation
    )
    val_grad = jax.grad(loss)(params[1], val_inputs, source.labels[source.val_indices])
    products = jax.tree.map(lambda g, e: -np.sum(g * e), found, val_grad)
    np.testing.assert_allclose(
        history.records["hypergradient"][1], sum(jax.tree.leaves(products)), rtol=1e-4
    )


def test_a_run_that_is_taken_up_is_the_run_that_was_left(images, tmp_path):
    run = make_run(images)._replace(step_size=1e-3)
    whole, lines = runs.train(run, images, Work()), []

    def stop_after(num_epochs):
        made = []

        def advance(share):
            made.append(share)
            if len(made) == num_epochs:
                raise KeyboardInterrupt

        return advance

    with pytest.raises(KeyboardInterrupt):  # in the third epoch: the checkpoint is of the second
        runs.train(run, images, Work(advance=stop_after(3), checkpoints=tmp_path))
    made = []
    again = runs.train(
        run, images, Work(advance=made.append, log=lines.append, checkpoints=tmp_path)
    )
    assert made == [0.5, 0.25, 0.25]
    assert [line["step"] for line in lines] == [6, 12]
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    assert len(set(whole.records["learning_rate"])) > 5  # it was worth comparing


@pytest.mark.parametrize("name", ["marthe", "marthe_zero"])
def test_the_search_finds_the_largest_step_size_with_a_margin(name, images):
    run = make_run(images, name)._replace(step_size=1e4)
    found = runs.search_step_size(run, images, 6)

    def goes_well(step_size):
        trial = run._replace(step_size=step_size)
        source = training.make_source(images, 0)
        state, history = runs._start(trial), runs.empty_history(run.size)
        for epoch in range(2):
            state = runs.train_epoch(trial, source, state, history, epoch)
        losses = history.records["train_loss"][:6]
        lost = runs.diverged(trial._replace(runaway=1.0), history)
        return not lost and losses.max() <= 2 * losses[0]

    assert 1e-6 < found < 1e4
    assert [goes_well(found * factor) for factor in (1, 10, 100)] == [True, True, False]


def test_a_search_without_survivors_is_an_error(images):
    run = make_run(images)._replace(step_size=1e30)
    with pytest.raises(InputError, match="look at the data: no candidate survived, down to 1e"):
        runs.search_step_size(run, images, 6)


def test_divergence_is_seen_in_losses_and_in_rates(images):
    run = make_run(images)

    def history(losses, rates):
        empty = runs.empty_history(run.size)
        empty.records["train_loss"][:2], empty.records["learning_rate"][:2] = losses, rates
        empty.num_steps[...] = 2
        return empty

    assert run.runaway == 10.0
    assert not runs.diverged(run, runs.empty_history(run.size))
    assert not runs.diverged(run, history([2.3, 2.2], [0.1, 9.9]))
    assert runs.diverged(run, history([2.3, np.nan], [0.1, 0.1]))
    assert runs.diverged(run, history([2.3, np.nan], [0.1, np.nan]))
    assert runs.diverged(run, history([2.3, 2.3], [0.1, np.inf]))
    assert runs.diverged(run, history([2.3, 2.3], [0.1, 10.1]))
    for loss, exploded in ((4.5, False), (4.7, True), (np.nan, False)):
        ended = history([2.3, 2.3], [0.1, 0.1])
        ended.curves["val_loss"][-1] = loss
        assert runs.ends_exploded(ended) == exploded


def run(settings, cifar_dir, out, inner="momentum", **options):
    experiment = cifar.make_experiment("cifar10", inner, network=Tiny)
    text = io.StringIO()
    runner.run(
        experiment, settings, out, Console(file=text, width=80), data_dir=cifar_dir, **options
    )
    return text.getvalue()


@pytest.mark.parametrize(
    ("inner", "names", "num_seeds"),
    [("momentum", tuple(NUMBERS), 1), ("adam", ("marthe",), 2)],
    ids=["momentum", "adam"],
)
def test_every_method_runs_and_the_learned_rates_move(inner, names, num_seeds, cifar_dir, tmp_path):
    settings = SMALL._replace(methods=names, num_seeds=num_seeds)
    run(settings, cifar_dir, tmp_path, inner, tensorboard=True)
    with np.load(tmp_path / "schedules.npz") as file:
        schedules = dict(file)
    assert set(schedules) == set(names)
    for name, schedule in schedules.items():
        assert schedule.shape == (num_seeds, 12)
        assert np.isfinite(schedule).all(), name
        if METHODS[name].online is not None:
            assert len(np.unique(schedule)) > 2, name
    methods = json.loads((tmp_path / "metrics.json").read_text())["methods"]
    assert set(methods) == set(schedules)
    for method in methods.values():
        assert len(method["val_accuracy"]) == len(method["test_accuracy"]) == num_seeds
        assert not any(method["diverged"])
    before = (tmp_path / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in before.splitlines()]
    assert len(lines) == len(names) * num_seeds * 2
    assert lines[0]["part"].startswith(f"{names[0]}-0-")
    assert lines[1]["step"] == 12
    figures = {path.name for path in tmp_path.glob("*.png")}
    assert figures == {"curves.png"} | ({"curves_sgdr_2264.png"} if len(names) > 1 else set())
    assert len(list((tmp_path / "tensorboard").iterdir())) == len(names) * num_seeds
    run(settings, cifar_dir, tmp_path, inner)  # all is done
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_damaged_checkpoint_is_refused_and_the_run_goes_on(images, tmp_path):
    run, interrupted = make_run(images), []

    def interrupt(share):
        interrupted.append(share)
        if len(interrupted) == 3:
            raise KeyboardInterrupt

    whole = runs.train(run._replace(size=run.size._replace(checkpoint_epochs=1)), images, Work())
    run = run._replace(size=run.size._replace(checkpoint_epochs=1))
    with pytest.raises(KeyboardInterrupt):
        runs.train(run, images, Work(advance=interrupt, checkpoints=tmp_path))
    last = next(path for path in (tmp_path / "3" / "arrays" / "d").iterdir())
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 0x80
    last.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=r"3 is damaged .*taking the one of step 2"):
        again = runs.train(run, images, Work(checkpoints=tmp_path))
    jax.tree.map(np.testing.assert_array_equal, whole, again)


def test_presets(images):
    paper, smoke = cifar.PRESETS["paper"], cifar.PRESETS["smoke"]
    size = cifar.make_size(paper, images._replace(num_train=45_000))
    assert (size.num_epochs, size.steps_per_epoch, size.batch_size) == (200, 351, 128)
    assert (paper.num_seeds, paper.width) == (5, 64)
    assert paper.methods == smoke.methods == tuple(NUMBERS)
    assert training.WEIGHT_DECAY == 5e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar10"], "Error: CIFAR-10 does not come with hyperlr: pass --data-dir"),
        (["cifar100", "--data-dir", "/nowhere"], "Error: --data-dir names /nowhere"),
        (
            ["cifar10", "--data-dir", "{cifar}", "--method", "sgd"],
            "Error: --method: there is no sgd; the methods are exp",
        ),
    ],
)
def test_mistakes_are_one_line(arguments, message, cifar_dir, tmp_path, monkeypatch):
    monkeypatch.delenv("HYPERLR_DATA_DIR", raising=False)
    arguments = [each.format(cifar=cifar_dir) for each in arguments]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert done.output.startswith(message)
    assert len(done.output.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["cifar10"], ["cifar100", "--inner", "momentum"]])
def test_smoke_preset(arguments, cifar_dir, tmp_path):
    out = tmp_path / "out"
    run = [*arguments, "--data-dir", str(cifar_dir), "--out", str(out)]
    done = CliRunner().invoke(app, run)
    assert done.exit_code == 0, done.output
    with np.load(out / "schedules.npz") as schedules:
        assert all(np.isfinite(schedule).all() for schedule in schedules.values())
