"""Shared fixtures. Rank promotion raises and warnings are errors (pyproject) in every test."""

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.devices()  # XLA reads its flags here, and not where a test sets those of another process


@pytest.fixture
def x64():
    """Runs a test in float64, for comparisons with NumPy and with central differences."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
