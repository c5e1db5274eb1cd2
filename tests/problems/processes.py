"""What the processes that tests start are told: their programs run for milliseconds."""

import os

QUICK_TO_COMPILE = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)
"""XLA without what takes most of the time of compiling; a program is compiled in one piece."""


# Collectives of virtual devices wait in threads of one pool, whose size XLA takes from here. With a
# thread a device, independent sums can fill it, and wait for ever for the last to come.
_THREADS = {"NPROC": "32"}


def environment(*xla_flags):
    """The environment of such a process."""
    return _THREADS | os.environ | {"XLA_FLAGS": " ".join([QUICK_TO_COMPILE, *xla_flags])}
