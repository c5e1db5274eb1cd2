"""Checkpoints of a long run, written by orbax, which comes with the extra ``checkpoint``.

A checkpoint holds the bytes of all arrays of a tree, one after the other, what tells its run from
other runs, and digests of both. One that is damaged or of another run is refused, and the one
before it is taken. (One array, and one of NumPy: where it reads several, or puts them on a device,
orbax goes on in the background after an error, and complains of each.)
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any
Problem = Mapping[str, str]

# The folders in a checkpoint.
_ITEMS = {"arrays", "run"}


@contextmanager
def open_directory(directory: str | os.PathLike[str]) -> Iterator[Any]:
    """The checkpoints of one run in a directory, which is made if it is not there.

    Orbax gives a checkpoint its name only when it is complete, and the one before it stays, so that
    a run may be killed at any moment. What a killed run left unfinished is removed.

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
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    with ocp.CheckpointManager(Path(directory).absolute(), options=options) as manager:
        yield manager


def save(manager: Any, step: int, tree: Tree, problem: Problem) -> None:
    """Writes ``tree`` as the checkpoint of ``step``, with what tells the run from other runs.

    Raises:
      RuntimeError: the directory has a checkpoint of this step or a later one already.
    """
    import orbax.checkpoint as ocp

    content = b"".join(_plain(x).tobytes() for x in jax.tree.leaves(tree))
    problem = _with_structure(problem, tree)
    record = {
        "problem": problem,
        "problem digest": _digest_of_json(problem),
        "arrays digest": _sha256(content),
    }
    written = manager.save(
        step,
        args=ocp.args.Composite(
            arrays=ocp.args.StandardSave([_plain(jnp.frombuffer(content, jnp.uint8))]),
            run=ocp.args.JsonSave(record),
        ),
    )
    if not written:
        raise RuntimeError(
            f"checkpoint_dir {manager.directory} has got a checkpoint of step "
            f"{manager.latest_step()} from elsewhere: give every run a directory of its own"
        )
    manager.wait_until_finished()


def restore_latest(
    manager: Any, like: Callable[[int], Tree], problem: Problem
) -> tuple[int, Tree] | None:
    """The last good checkpoint of this run: its step, and its tree.

    Checkpoints after it that are damaged, or not of this run, are renamed to ``refused-<step>``,
    with a warning: none is deleted.

    Args:
      manager: what :func:`open_directory` gave.
      like: ``like(step)`` is a tree with the structure and types of the checkpoint of ``step``.
      problem: what tells this run from other runs.

    Returns:
      ``None`` where there is no checkpoint, or none but damaged ones.

    Raises:
      ValueError: there is no good checkpoint, and one of another run or of something else.

    Warns:
      RuntimeWarning: for each checkpoint that is refused.
    """
    refused: dict[int, _RefusedError] = {}
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            tree = _restore(manager, step, like, problem)
        except _RefusedError as error:
            refused[step] = error
            continue
        _set_aside(manager, refused, f"taking the one of step {step}")
        return step, tree
    for reason in refused.values():
        if isinstance(reason, _ForeignError):
            raise ValueError(f"checkpoint_dir {manager.directory} {reason}") from reason
    _set_aside(manager, refused, "there is no good one before it: starting from the beginning")
    return None


def describe(tree: Tree) -> str:
    """Structure, shapes and dtypes of a tree, as a line for people to read."""
    leaves = [
        f"{jax.tree_util.keystr(path)}: {jnp.result_type(leaf)}{list(jnp.shape(leaf))}".lstrip(": ")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    return ", ".join(leaves)


def digest(tree: Tree) -> str:
    """A short hash of the numbers in a tree, and of their structure."""
    leaves = [_plain(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
    return _sha256(describe(tree).encode(), *leaves)


class _RefusedError(Exception):
    """Why a checkpoint is not taken; this class itself says that it is damaged."""


class _ForeignError(_RefusedError):
    """The checkpoint is not of this run; it may be a good one of another."""


def _restore(manager: Any, step: int, like_at: Callable[[int], Tree], problem: Problem) -> Tree:
    """The tree of the checkpoint of ``step``, in the structure and types of ``like_at(step)``."""
    import orbax.checkpoint as ocp

    folder = Path(manager.directory) / str(step)
    names = {path.name for path in folder.iterdir()}
    if names and not names & _ITEMS:
        raise _ForeignError("holds checkpoints that hyperlr did not write: name another directory")
    saved = _read(manager, step, run=ocp.args.JsonRestore())
    if not isinstance(saved, dict):
        raise _RefusedError("its description is not what was written")
    there = saved.get("problem")
    if not isinstance(there, dict) or _digest_of_json(there) != saved.get("problem digest"):
        raise _RefusedError("its description is not what was written")
    like = like_at(step)
    here = _with_structure(problem, like)
    if there != here:
        different = [
            f"{name} (there {there.get(name)}, here {here.get(name)})"
            for name in sorted({*there, *here})
            if there.get(name) != here.get(name)
        ]
        raise _ForeignError(
            f"holds another run, with a different {'; '.join(different)}: pass what that run was "
            "started with to resume it, or an empty directory to start anew"
        )
    leaves, structure = jax.tree.flatten(like)
    length = sum(_plain(leaf).nbytes for leaf in leaves)
    like_content = [_plain(jnp.zeros(length, jnp.uint8))]
    (content,) = _read(manager, step, arrays=ocp.args.StandardRestore(like_content))
    content = content.tobytes()
    if _sha256(content) != saved.get("arrays digest"):
        raise _RefusedError("its arrays are not what was written")
    restored, start = [], 0
    for leaf in leaves:
        plain = _plain(leaf)
        array = jnp.frombuffer(content, plain.dtype, plain.size, start).reshape(plain.shape)
        restored.append(_like(array, leaf))
        start += plain.nbytes
    return jax.tree.unflatten(structure, restored)


def _read(manager: Any, step: int, **item: Any) -> Any:
    """One item of a checkpoint."""
    import orbax.checkpoint as ocp

    (name,) = item
    try:
        return manager.restore(step, args=ocp.args.Composite(**item))[name]
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # orbax does not say what it raises on a damaged file
        lines = str(error).splitlines() or [""]
        raise _RefusedError(f"{name}: {type(error).__name__}: {lines[0][:120]}") from error


def _set_aside(manager: Any, refused: Mapping[int, _RefusedError], instead: str) -> None:
    """Renames refused checkpoints: in their place, orbax would write no others."""
    for step, error in refused.items():
        folder = Path(manager.directory) / str(step)
        kept = _free_name(folder.with_name(f"refused-{step}"))
        folder.rename(kept)
        foreign = isinstance(error, _ForeignError)
        reason = "is not of this run" if foreign else f"is damaged ({error})"
        warnings.warn(
            f"checkpoint {folder} {reason}, and is now {kept.name}; {instead}",
            RuntimeWarning,
            stacklevel=2,
        )
    if refused:
        manager.reload()


def _free_name(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _with_structure(problem: Problem, tree: Tree) -> dict[str, str]:
    return {**problem, "structure": _sha256(describe(tree).encode())}


def _digest_of_json(value: Any) -> str:
    return _sha256(json.dumps(value, sort_keys=True).encode())


def _sha256(*contents: bytes) -> str:
    whole = hashlib.sha256()
    for content in contents:
        whole.update(content)
    return whole.hexdigest()[:16]


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    """A NumPy array of numbers, also for a typed random key."""
    leaf = jnp.asarray(leaf)
    return jax.device_get(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _like(plain: jax.Array, leaf: Any) -> jax.Array:
    """The inverse of :func:`_plain`."""
    leaf = jnp.asarray(leaf)
    if not _is_key(leaf):
        return plain
    return jax.random.wrap_key_data(plain, impl=jax.random.key_impl(leaf))
