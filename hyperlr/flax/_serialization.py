"""How Flax writes our states: ``flax.serialization`` knows nodes of a tree by registration only."""

from typing import Any

from flax import serialization

from hyperlr._state import PerName, Settings


def register() -> None:
    """Makes states of hyperlr known to ``flax.serialization.to_bytes`` and its like."""
    serialization.register_serialization_state(PerName, _to_dict, _from_dict, override=True)
    # What is fixed when a method is built is not data: a restored state has the target's.
    serialization.register_serialization_state(
        Settings, lambda settings: {}, lambda settings, state: settings, override=True
    )


def _to_dict(entries: PerName) -> dict[str, Any]:
    return {name: serialization.to_state_dict(x) for name, x in entries.items()}


def _from_dict(target: PerName, state: dict[str, Any]) -> PerName:
    return PerName(
        (name, serialization.from_state_dict(x, state[name], name=name))
        for name, x in target.items()
    )
