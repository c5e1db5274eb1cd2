"""Searches for the one number that a method still needs, from short runs or forward passes."""

from hyperlr.search._find_step_size import FoundStepSize, NoSurvivorError, find_step_size
from hyperlr.search._first_rate import first_rate

__all__ = ["FoundStepSize", "NoSurvivorError", "find_step_size", "first_rate"]
