"""What the processes that tests start are told: their programs run for milliseconds."""

import os

QUICK_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""XLA without its dear passes, which take most of the time of compiling."""


# Collectives of virtual devices wait in threads of one pool, whose size XLA takes from here. With a
# thread a device, independent sums can fill it, and wait for ever for the last to come.
_THREADS = {"NPROC": "32"}


def environment(*xla_flags):
    """The environment of such a process."""
    return _THREADS | os.environ | {"XLA_FLAGS": " ".join([QUICK_TO_COMPILE, *xla_flags])}
