"""Online hypergradient methods: the recursion once, its discounts, its average, and the guard."""

from hyperlr._linearize import eval_params, linearize_grad, value_and_grad
from hyperlr._state import OnlineState
from hyperlr.methods._alignment import alignment
from hyperlr.methods._auto import auto
from hyperlr.methods._bursts import Bursts
from hyperlr.methods._engine import online
from hyperlr.methods._guard import GuardState, guard
from hyperlr.methods._hd import hd
from hyperlr.methods._marthe import marthe
from hyperlr.methods._metrics import metrics
from hyperlr.methods._per_group import per_group
from hyperlr.methods._rtho import rtho
from hyperlr.methods._scheduled import scheduled

__all__ = [
    "Bursts",
    "GuardState",
    "OnlineState",
    "alignment",
    "auto",
    "eval_params",
    "guard",
    "hd",
    "linearize_grad",
    "marthe",
    "metrics",
    "online",
    "per_group",
    "rtho",
    "scheduled",
    "value_and_grad",
]
