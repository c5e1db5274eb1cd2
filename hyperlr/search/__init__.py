"""Searches for the one number that a method still needs, from short runs or forward passes."""

from hyperlr.search._find_step_size import FoundStepSize, NoSurvivorError, find_step_size

__all__ = ["FoundStepSize", "NoSurvivorError", "find_step_size"]
