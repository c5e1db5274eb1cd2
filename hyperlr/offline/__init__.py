"""Hypergradients of whole schedules: LRS-OPT."""

from hyperlr.offline._hypergradient import schedule_hypergradient
from hyperlr.offline._lrs_opt import lrs_opt
from hyperlr.offline._optimize import OptimizedSchedule, optimize_schedule
from hyperlr.offline._outer_step import OuterRecord, OuterState, init_outer_state, outer_step
from hyperlr.offline._unroll import unroll

__all__ = [
    "OptimizedSchedule",
    "OuterRecord",
    "OuterState",
    "init_outer_state",
    "lrs_opt",
    "optimize_schedule",
    "outer_step",
    "schedule_hypergradient",
    "unroll",
]
