"""Checkpoints of a long run, written by orbax, which comes with the extra ``checkpoint``."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any
Problem = Mapping[str, str]


@contextmanager
def open_directory(directory: str | os.PathLike[str]) -> Iterator[Any]:
    """The checkpoints of one run in a directory, which is made if it is not there.

    Orbax gives a checkpoint its name only when it is complete, and the one before it stays, so that
    a run may be killed at any moment.

    Raises:
      ImportError: orbax is not installed.
    """
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError(
            "checkpoint_dir needs orbax-checkpoint, which comes with an extra: "
            "pip install 'hyperlr[checkpoint]'"
        ) from error
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    with ocp.CheckpointManager(Path(directory).absolute(), options=options) as manager:
        yield manager


def save(manager: Any, step: int, tree: Tree, problem: Problem) -> None:
    """Writes ``tree`` as the checkpoint of ``step``, with what tells the run from other runs."""
    import orbax.checkpoint as ocp

    leaves = [_plain(x) for x in jax.tree.leaves(tree)]
    manager.save(
        step,
        args=ocp.args.Composite(
            leaves=ocp.args.StandardSave(leaves), problem=ocp.args.JsonSave(dict(problem))
        ),
    )
    manager.wait_until_finished()


def latest_step(manager: Any) -> int | None:
    """The step of the last complete checkpoint, or ``None`` where there is none."""
    return manager.latest_step()


def restore(manager: Any, step: int, like: Tree, problem: Problem) -> Tree:
    """The tree of the checkpoint of ``step``, in the structure and types of ``like``.

    Raises:
      ValueError: the checkpoint is of another run than ``problem``.
    """
    import orbax.checkpoint as ocp

    directory = manager.directory
    try:
        saved = manager.restore(step, args=ocp.args.Composite(problem=ocp.args.JsonRestore()))
        saved = saved["problem"]
    except (KeyError, ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"checkpoint_dir {directory} holds checkpoints that hyperlr did not write: name "
            "another directory"
        ) from error
    if saved != dict(problem):
        different = [
            f"{name} (there {saved.get(name)}, here {problem.get(name)})"
            for name in sorted({*saved, *problem})
            if saved.get(name) != problem.get(name)
        ]
        raise ValueError(
            f"checkpoint_dir {directory} holds another run, with a different "
            f"{'; '.join(different)}: pass what that run was started with to resume it, or an "
            "empty directory to start anew"
        )
    leaves, structure = jax.tree.flatten(like)
    abstract = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in map(_plain, leaves)]
    restored = manager.restore(
        step, args=ocp.args.Composite(leaves=ocp.args.StandardRestore(abstract))
    )["leaves"]
    # Through the host: what orbax returns is bound to a device, and would compile the step again.
    plain = [jnp.asarray(jax.device_get(x)) for x in restored]
    return jax.tree.unflatten(structure, map(_like, plain, leaves))


def describe(tree: Tree) -> str:
    """Structure, shapes and dtypes of a tree, as a line for people to read."""
    leaves = [
        f"{jax.tree_util.keystr(path)}: {jnp.result_type(leaf)}{list(jnp.shape(leaf))}".lstrip(": ")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    return ", ".join(leaves)


def digest(tree: Tree) -> str:
    """A short hash of the numbers in a tree, and of their structure."""
    content = hashlib.sha256(describe(tree).encode())
    for leaf in jax.tree.leaves(tree):
        content.update(jax.device_get(_plain(leaf)).tobytes())
    return content.hexdigest()[:16]


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> jax.Array:
    """An array of numbers, also for a typed random key."""
    leaf = jnp.asarray(leaf)
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(plain: jax.Array, leaf: Any) -> jax.Array:
    """The inverse of :func:`_plain`."""
    leaf = jnp.asarray(leaf)
    if not _is_key(leaf):
        return plain
    return jax.random.wrap_key_data(plain, impl=jax.random.key_impl(leaf))
