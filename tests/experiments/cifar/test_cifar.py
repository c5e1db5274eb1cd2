"""Section 6: whole runs of a very small network."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems.cifar import Tiny
from rich.console import Console
from typer.testing import CliRunner

from hyperlr.experiments import (
    cifar,
    cifar_data,
    cifar_inputs,
    cifar_methods,
    cifar_runs,
    cifar_training,
)
from hyperlr.experiments.cifar_data import CIFAR10
from hyperlr.experiments.cli import app
from hyperlr.experiments.errors import InputError

QUIET = Console(quiet=True)

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
    return cifar_data.load(CIFAR10, cifar_dir)


def make_run(images, name="marthe", **settings):
    changed = SMALL._replace(**settings)
    size = cifar.make_size(changed, 108)
    return cifar.make_run(TASK, changed, size, name, images)


def first_steps(images, val_shift):
    run = make_run(images)._replace(rates=cifar_training.Rates(np.full(12, 0.1, np.float32), 1e-3))
    source = cifar_training.make_source(images, run.seed)
    source = source._replace(val_indices=np.roll(source.val_indices, val_shift))
    state = cifar_runs._start(run)
    history = cifar_runs.empty_history(run.size)
    return cifar_runs.train_epoch(run, source, state, history, 0), history


def test_the_validation_minibatch_moves_the_rate_and_not_the_running_statistics(images):
    states, histories = zip(*(first_steps(images, shift) for shift in (0, 3)), strict=True)
    rates = [history.records["learning_rate"][:3] for history in histories]
    assert rates[0][2] != rates[1][2]
    # η is 0.1 in the first two steps (β starts at 0), so the third training pass saw the same.
    np.testing.assert_array_equal(rates[0][:2], rates[1][:2])
    jax.tree.map(np.testing.assert_array_equal, *(state.batch_stats for state in states))


def test_weight_decay_is_in_the_loss_and_not_in_the_objective(images, monkeypatch):
    weight_decay = 0.5
    monkeypatch.setattr(cifar_training, "WEIGHT_DECAY", weight_decay)
    cifar_training.train_step.clear_cache()
    run = make_run(images, "hd", steps_per_epoch=1, batch_size=12)
    source = cifar_training.make_source(images, 0)
    state, history = cifar_runs._start(run), cifar_runs.empty_history(run.size)
    params = [jax.tree.map(np.asarray, state.params)]
    for epoch in range(2):
        state = cifar_runs.train_epoch(run, source, state, history, epoch)
        params.append(jax.tree.map(np.asarray, state.params))
    cifar_training.train_step.clear_cache()
    apply, variables = run.program.network.apply, {"batch_stats": state.batch_stats}

    def loss(params, inputs, labels):
        output, _ = apply(variables | {"params": params}, inputs, train=True, mutable="batch_stats")
        return -jnp.mean(jax.nn.log_softmax(output)[jnp.arange(len(labels)), labels])

    # SGD's first step is −0.1 ∇L: L at w_0 has the penalty,
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 1), 0)
    (train,), _ = cifar_training.epoch_minibatches(source, 0, 0, 1, 12)
    inputs = cifar_inputs.augment(key, source.images[train])
    inputs = cifar_inputs.normalize(inputs, source.mean, source.deviation)
    expected = jax.tree.map(
        lambda g, w: g + weight_decay * w,
        jax.grad(loss)(params[0], inputs, source.labels[train]),
        params[0],
    )
    found = jax.tree.map(lambda before, after: (before - after) / 0.1, params[0], params[1])
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), found, expected
    )
    # and E at w_1 has none: Δη_1 = −⟨∇L(w_0), ∇E(w_1)⟩. The validation set is one minibatch here.
    val_inputs = cifar_inputs.normalize(
        source.images[source.val_indices], source.mean, source.deviation
    )
    val_grad = jax.grad(loss)(params[1], val_inputs, source.labels[source.val_indices])
    products = jax.tree.map(lambda g, e: -np.sum(g * e), found, val_grad)
    np.testing.assert_allclose(
        history.records["hypergradient"][1], sum(jax.tree.leaves(products)), rtol=1e-4
    )


def test_a_run_that_is_taken_up_is_the_run_that_was_left(images, tmp_path):
    run = make_run(images)._replace(rates=make_run(images).rates._replace(step_size=1e-3))
    description = {"run": "this"}
    whole, lines = cifar_runs.train(run, images, tmp_path / "whole", description), []

    def stop_after(num_epochs):
        made = []

        def on_epoch(steps):
            made.append(steps)
            if len(made) == num_epochs:
                raise KeyboardInterrupt

        return on_epoch

    with pytest.raises(KeyboardInterrupt):  # in the third epoch: the checkpoint is of the second
        cifar_runs.train(run, images, tmp_path / "a", description, on_epoch=stop_after(3))
    made = []
    again = cifar_runs.train(
        run, images, tmp_path / "a", description, on_epoch=made.append, on_evaluation=lines.append
    )
    assert made == [6, 3, 3]
    assert [line["step"] for line in lines] == [6, 12]
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    assert len(set(whole.records["learning_rate"])) > 5  # it was worth comparing
    with pytest.raises(InputError, match=r"--resume: .*run .there this, here that"):
        cifar_runs.train(run, images, tmp_path / "a", {"run": "that"})


@pytest.mark.parametrize("name", ["marthe", "marthe_zero"])
def test_the_search_finds_the_largest_step_size_with_a_margin(name, images):
    run = make_run(images, name)._replace(
        rates=make_run(images, name).rates._replace(step_size=1e4)
    )
    found = cifar_runs.search_step_size(run, images, 6)

    def goes_well(step_size):
        trial = run._replace(rates=run.rates._replace(step_size=step_size))
        source = cifar_training.make_source(images, 0)
        state, history = cifar_runs._start(trial), cifar_runs.empty_history(run.size)
        for epoch in range(2):
            state = cifar_runs.train_epoch(trial, source, state, history, epoch)
        losses = history.records["train_loss"][:6]
        lost = cifar_runs.diverged(trial._replace(runaway=1.0), history)
        return not lost and losses.max() <= 2 * losses[0]

    assert 1e-6 < found < 1e4
    assert [goes_well(found * factor) for factor in (1, 10, 100)] == [True, True, False]


def test_a_search_without_survivors_is_an_error(images):
    run = make_run(images)._replace(rates=make_run(images).rates._replace(step_size=1e30))
    with pytest.raises(InputError, match="look at the data: no candidate survived, down to 1e"):
        cifar_runs.search_step_size(run, images, 6)


def test_divergence_is_seen_in_losses_and_in_rates(images):
    run = make_run(images)

    def history(losses, rates):
        empty = cifar_runs.empty_history(run.size)
        empty.records["train_loss"][:2], empty.records["learning_rate"][:2] = losses, rates
        empty.num_steps[...] = 2
        return empty

    assert run.runaway == 10.0
    assert not cifar_runs.diverged(run, cifar_runs.empty_history(run.size))
    assert not cifar_runs.diverged(run, history([2.3, 2.2], [0.1, 9.9]))
    assert cifar_runs.diverged(run, history([2.3, np.nan], [0.1, 0.1]))
    assert cifar_runs.diverged(run, history([2.3, np.nan], [0.1, np.nan]))
    assert cifar_runs.diverged(run, history([2.3, 2.3], [0.1, np.inf]))
    assert cifar_runs.diverged(run, history([2.3, 2.3], [0.1, 10.1]))
    for loss, exploded in ((4.5, False), (4.7, True), (np.nan, False)):
        ended = history([2.3, 2.3], [0.1, 0.1])
        ended.curves["val_loss"][-1] = loss
        assert cifar_runs.ends_exploded(ended) == exploded


@pytest.mark.parametrize(
    ("inner", "names", "num_seeds"),
    [("momentum", tuple(cifar_methods.METHODS), 1), ("adam", ("marthe",), 2)],
    ids=["momentum", "adam"],
)
def test_every_method_runs_and_the_learned_rates_move(inner, names, num_seeds, cifar_dir, tmp_path):
    task = TASK._replace(inner=inner)
    settings = SMALL._replace(methods=names, num_seeds=num_seeds)
    out = tmp_path / "out"
    cifar.run(task, settings, cifar_dir, out, QUIET, tensorboard=True)
    with np.load(out / "schedules.npz") as file:
        schedules = dict(file)
    assert set(schedules) == set(names)
    for name, schedule in schedules.items():
        assert schedule.shape == (num_seeds, 12)
        assert np.isfinite(schedule).all(), name
        if cifar_methods.METHODS[name].online is not None:
            assert len(np.unique(schedule)) > 2, name
    metrics = json.loads((out / "metrics.json").read_text())
    methods = metrics["methods"]
    assert metrics["config"]["seeds"] == list(range(num_seeds))
    assert set(methods) == set(schedules)
    for method in methods.values():
        assert len(method["val_accuracy"]) == len(method["test_accuracy"]) == num_seeds
        assert not any(method["diverged"])
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == len(names) * num_seeds * 2
    assert lines[0]["method"] == names[0]
    assert lines[1]["step"] == 12
    for file in ("curves.npz", "curves.png", "curves_sgdr_2264.png"):
        assert (out / file).stat().st_size > 1_000
    assert len(list((out / "tensorboard").iterdir())) == len(names) * num_seeds
    before = (out / "metrics.jsonl").read_text()
    with pytest.raises(InputError, match="pass --resume"):
        cifar.run(task, settings, cifar_dir, out, QUIET)
    with pytest.raises(InputError, match=r"--resume: .* another num_epochs \(4 there, 5 here\)"):
        cifar.run(task, settings._replace(num_epochs=5), cifar_dir, out, QUIET, resume=True)
    assert (out / "metrics.jsonl").read_text() == before
    cifar.run(task, settings, cifar_dir, out, QUIET, resume=True)  # all is done
    assert (out / "metrics.jsonl").read_text() == before


def test_damaged_files_of_a_run_are_refused_and_the_run_goes_on(cifar_dir, tmp_path):
    settings = SMALL._replace(methods=("marthe",))
    cifar.run(TASK, settings, cifar_dir, tmp_path, QUIET)
    before = (tmp_path / "metrics.jsonl").read_text()
    folder = tmp_path / "checkpoints"
    (found,) = folder.glob("marthe-step-size-*.npz")
    last = next(path for path in (folder / "marthe-0" / "4" / "arrays" / "d").iterdir())
    for path in (found, folder / "config.json", last):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x80
        path.write_bytes(content)
    with pytest.warns(RuntimeWarning) as warned:
        cifar.run(TASK, settings, cifar_dir, tmp_path, QUIET, resume=True)
    messages = sorted(str(each.message) for each in warned)
    assert [message.partition(" (")[0] for message in messages] == sorted(
        [
            f"checkpoint {folder / 'marthe-0' / '4'} is damaged",
            f"{folder / 'config.json'} is damaged and written anew",
            f"{found} is damaged and not used",
        ]
    )
    assert "taking the one of step 2" in " ".join(messages)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_presets():
    paper, smoke = cifar.PRESETS["paper"], cifar.PRESETS["smoke"]
    size = cifar.make_size(paper, 45_000)
    assert (size.num_epochs, size.steps_per_epoch, size.batch_size) == (200, 351, 128)
    assert (paper.num_seeds, paper.width) == (5, 64)
    assert paper.methods == smoke.methods == tuple(cifar_methods.METHODS)
    assert cifar_training.WEIGHT_DECAY == 5e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar10"], "Error: CIFAR-10 does not come with hyperlr: pass --data-dir"),
        (["cifar100", "--data-dir", "/nowhere"], "Error: --data-dir names /nowhere"),
        (["cifar10", "--method", "sgd"], "Error: --method: there is no sgd; the methods are exp"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.delenv("HYPERLR_DATA_DIR", raising=False)
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
