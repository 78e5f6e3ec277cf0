"""Processes that have simulated GPUs: TVM's CUDA runtime, virtual machine, streams and graphs run there on the simulated driver.

The driver's libraries must be in a process before TVM is, and everything in it then sees a GPU, so that tests don't get them into
their own process: a worker serves them. ``call`` runs any function of a test module there.
"""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import select
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tests.support.cuda_on_cpu.finding import SCHEDULES, Finding
from tests.support.cuda_on_cpu.images import simulated_compiler
from tests.support.cuda_on_cpu.toolchain import driver_libraries

Array = npt.NDArray[Any]
T = TypeVar("T")
LONGEST_CALL_S = 600


class SimulatedGpus:
    """A process with simulated GPUs.

    Args:
        devices: compute capabilities, separated by commas, as in ``"8.0,9.0"``; empty: a driver without devices.
        driver: the driver's version as CUDA counts it; TVM needs 13000.
        memory: bytes of each device; 0: no limit.
        apart: host code that accesses memory of a device ends the process. Otherwise it may, as the memory is the host's.
    """

    def __init__(self, devices: str = "8.0", driver: int = 13000, memory: int = 0, *, apart: bool = False) -> None:
        settings = {
            "CUDA_ON_CPU_DEVICES": devices,
            "CUDA_ON_CPU_DRIVER": str(driver),
            "CUDA_ON_CPU_MEMORY": str(memory),
            "CUDA_ON_CPU_APART": "1" if apart else "",
        }
        command = [sys.executable, "-m", "tests.support.cuda_on_cpu.worker", *map(str, driver_libraries())]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **settings},
            cwd=Path(__file__).parents[3],
        )
        atexit.register(self.close)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a module's function, called in the process; what it raises is raised here.

        Raises:
            Finding: the simulator found something while it ran.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = pickle.dumps((function.__module__, function.__qualname__, arguments))
        self._process.stdin.write(struct.pack("<Q", len(request)) + request)
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], LONGEST_CALL_S)[0]:
            self._process.kill()
            raise TimeoutError(
                f"{function.__qualname__} takes more than {LONGEST_CALL_S} s in the process with simulated GPUs"
            )
        head = self._process.stdout.read(8)
        if len(head) < 8:
            raise RuntimeError(f"the process with simulated GPUs ended with {self._process.wait()}")
        succeeded, value = pickle.loads(self._process.stdout.read(struct.unpack("<Q", head)[0]))
        if succeeded:
            result: T = value
            return result
        raise value

    @property
    def is_alive(self) -> bool:
        """Whether it can take calls."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(timeout=60)


@functools.cache
def _shared(devices: str) -> list[SimulatedGpus]:
    return [SimulatedGpus(devices, apart=True)]


def shared_gpu(devices: str = "8.0") -> SimulatedGpus:
    """A process that all tests of this one share; each should leave nothing behind. One that ended is replaced."""
    kept = _shared(devices)
    if not kept[0].is_alive:
        kept[0] = SimulatedGpus(devices, apart=True)
    return kept[0]


def run_on_simulated_gpu(
    model: Any,
    feed: Mapping[str, Array],
    *,
    arch: int = 80,
    schedules: Sequence[int] = SCHEDULES,
    checked: bool = True,
    contract: bool = False,
    edit: Callable[[str], str] | None = None,
    gpus: SimulatedGpus | None = None,
    **options: Any,
) -> dict[str, Array]:
    """Compile a model for a GPU, load the artefact where there is a simulated one, and run it.

    Args:
        model: whatever ``graphopt.compile`` takes, a ``CompiledModel`` for CUDA, or the path of a ``.gopt`` file that was compiled
            within ``simulated_compiler``.
        feed: arrays by input name.
        arch: the GPU's compute capability, times ten.
        schedules: the orders of threads to run in; results must be the same bits.
        checked: whether every access is checked.
        contract: whether products and sums become fused multiply-adds.
        edit: what becomes of the kernels' source first.
        gpus: the process; by default one that tests share.
        options: further arguments of ``graphopt.compile``.

    Raises:
        Finding: what the simulator found.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = (
            model
            if isinstance(model, (str, Path)) and str(model).endswith(".gopt")
            else compiled_for_simulator(
                model,
                Path(folder, "model.gopt"),
                arch=f"sm_{arch}",
                checked=checked,
                contract=contract,
                edit=edit,
                **options,
            )
        )
        process = gpus or shared_gpu(f"{arch // 10}.{arch % 10}")
        results = [process.call(run_file, str(path), dict(feed), schedule) for schedule in schedules]
    for schedule, other in zip(schedules[1:], results[1:]):
        for name, value in results[0].items():
            if value.tobytes() != other[name].tobytes():
                raise Finding(
                    "schedule", f"output {name!r} of schedule {schedule} has other bits than that of {schedules[0]}"
                )
    return results[0]


def compiled_for_simulator(
    model: Any,
    path: Path,
    *,
    arch: str = "sm_80",
    checked: bool = True,
    contract: bool = False,
    edit: Callable[[str], str] | None = None,
    **options: Any,
) -> Path:
    """An artefact of a model for simulated GPUs, at ``path``.

    Args:
        model: whatever ``graphopt.compile`` takes, or a ``CompiledModel`` for CUDA.
        path: the file to write.
        arch: what stands behind ``cuda:`` in the target's name.
        checked: whether every access is checked.
        contract: whether products and sums become fused multiply-adds.
        edit: what becomes of the kernels' source first.
        options: further arguments of ``graphopt.compile``.
    """
    import graphopt

    with simulated_compiler(checked=checked, contract=contract, edit=edit):
        if isinstance(model, graphopt.CompiledModel):
            compiled = model
        else:
            compiled = graphopt.compile(model, f"cuda:{arch}", **options)
        compiled.save(path)
    return path


def run_file(path: str, feed: Mapping[str, Array], schedule: int, kernels: str = "") -> dict[str, Array]:
    """For the process with GPUs: load an artefact and run it once.

    Args:
        path: of the artefact.
        feed: arrays by input name.
        schedule: the order of threads.
        kernels: a library of kernels to take instead of the artefact's.
    """
    import graphopt
    from tests.support.cuda_on_cpu import worker

    worker.set_schedule(schedule)
    worker.replace_kernels(kernels)
    worker.allocate_exactly()
    try:
        outputs = graphopt.load(path).run(feed)
    finally:
        worker.replace_kernels("")
    return {name: np.array(value) for name, value in outputs.items()}
