"""The size of TVM's own thread pool, which code compiled in process runs on."""

from __future__ import annotations

import os

from graphopt.backends.base.host import default_threads
from graphopt.backends.base.tvm_runtime import get_global_func


def set_threads(count: int) -> int:
    """Set how many threads TVM's pool uses for the calling thread's kernels; its own default is half the CPUs.

    The pool can't grow beyond the size it starts with, which TVM takes from the environment when the first parallel
    kernel runs; so it starts with all usable CPUs, and ``count`` of them are used.

    Returns:
        How many are used: less than ``count`` when something else started the pool before.
    """
    os.environ["TVM_NUM_THREADS"] = str(max(count, default_threads()))
    get_global_func("runtime.config_threadpool")(1, count)
    return int(get_global_func("runtime.NumThreads")())
