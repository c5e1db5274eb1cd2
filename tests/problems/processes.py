"""What the processes that tests start are told: their programs run for milliseconds."""

import os

QUICK_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""XLA without its dear passes, which take most of the time of compiling."""


def environment(*xla_flags):
    """The environment of such a process."""
    return os.environ | {"XLA_FLAGS": " ".join([QUICK_TO_COMPILE, *xla_flags])}
