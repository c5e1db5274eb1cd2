"""Online hypergradient methods: the recursion of Algorithm 1 of [P] and its three discounts."""

from hyperlr.methods._engine import OnlineState, online
from hyperlr.methods._guard import GuardState, guard
from hyperlr.methods._hd import hd
from hyperlr.methods._marthe import marthe
from hyperlr.methods._metrics import metrics
from hyperlr.methods._rtho import rtho

__all__ = ["GuardState", "OnlineState", "guard", "hd", "marthe", "metrics", "online", "rtho"]
