"""Hypergradients of whole schedules: LRS-OPT."""

from hyperlr.offline._hypergradient import schedule_hypergradient
from hyperlr.offline._lrs_opt import lrs_opt
from hyperlr.offline._unroll import unroll

__all__ = ["lrs_opt", "schedule_hypergradient", "unroll"]
