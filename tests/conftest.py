"""Shared fixtures. Rank promotion raises and warnings are errors (pyproject) in every test."""

import functools
import os

from problems import processes

# Read by XLA when JAX starts; what a test takes is mostly compiling.
os.environ.setdefault("XLA_FLAGS", processes.QUICK_TO_COMPILE)

import jax
import pytest
from problems.digits import SIZE

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.devices()  # XLA reads its flags here, and not where a test sets those of another process


@pytest.fixture
def x64():
    """Runs a test in float64, for comparisons with NumPy and with central differences."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(params=["jax_debug_nans", "jax_debug_infs"])
def debugging(request):
    """Stops a test at the first NaN, or at the first ∞."""
    jax.clear_caches()  # a program that was compiled before is not watched
    jax.config.update(request.param, True)
    yield
    jax.config.update(request.param, False)


@pytest.fixture(scope="session")
def digits():
    """The digits that come with the install."""
    from hyperlr.experiments import data  # not in the base install

    return data.load_packaged()


@pytest.fixture(scope="session")
def make_lanes(digits):
    """Makes short runs of a small network, from seeds and step sizes."""
    from hyperlr.experiments import training

    return functools.partial(training.make_lanes, digits, **SIZE)


@pytest.fixture(scope="session")
def cifar_dir(tmp_path_factory):
    """A directory with small data sets of noise in both formats of CIFAR."""
    from problems import cifar

    return cifar.write_sets(tmp_path_factory.mktemp("cifar"))
