"""Runs C libraries of models in a program of their own, on this machine or emulated."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.backends.build.c_library import compile as source
from graphopt.runtime.model import CompiledModel

_HOST = Path(__file__).with_name("c_library_host.c")
INCLUDE = source.SOURCE.parent
"""Folder of ``graphopt_model.h``."""


@dataclass(frozen=True)
class Machine:
    """How programs are compiled and run: the compiler, and the emulator with its options."""

    compiler: str
    emulator: tuple[str, ...] = ()

    def require(self) -> None:
        """Skip the test where a tool is missing."""
        for tool in (self.compiler, *self.emulator[:1]):
            if shutil.which(tool) is None:
                pytest.skip(f"no {tool}")

    def on(self, cpu: str) -> tuple[str, ...]:
        """The emulator with a processor."""
        return (*self.emulator, "-cpu", cpu) if self.emulator else ()


MACHINES = {
    "here": Machine("gcc"),
    "aarch64": Machine("aarch64-linux-gnu-gcc", ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")),
    "armv7": Machine("arm-linux-gnueabihf-gcc", ("qemu-arm", "-L", "/usr/arm-linux-gnueabihf")),
}


class HostError(AssertionError):
    """The program ended with another status than 0, which is negative for a signal."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status {status}: {text}")
        self.status, self.text = status, text


@cache
def _host(machine: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="graphopt-c-host-"))
    program = folder / "host"
    command = [
        MACHINES[machine].compiler,
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-O1",
        f"-I{INCLUDE}",
        str(_HOST),
    ]
    subprocess.run([*command, "-o", str(program), "-ldl", "-lm", "-pthread"], check=True, timeout=120)
    return program


def run_c_library(
    model: CompiledModel, feed: Mapping[str, Any], like: Mapping[str, Any], machine: str, cpu: str, folder: Path
) -> dict[str, Any]:
    """Results of a model's C library.

    Args:
        model: just compiled for the machine.
        feed: arrays by name.
        like: arrays of the types and shapes of the results.
        machine: of `MACHINES`.
        cpu: of the emulator.
        folder: to write to.

    Raises:
        HostError: the program failed.
    """
    MACHINES[machine].require()
    library = folder / "net.so"
    model.save_library(library)
    arguments = []
    for i, spec in enumerate(model.inputs):
        (folder / f"in{i}").write_bytes(np.ascontiguousarray(feed[spec.name]).tobytes())
        arguments.append(f"in:{folder / f'in{i}'}")
    for i, spec in enumerate(model.outputs):
        arguments.append(f"out:{like[spec.name].nbytes}:{folder / f'out{i}'}")
    done = subprocess.run(
        [*MACHINES[machine].on(cpu), str(_host(machine)), str(library), "net_model", *arguments],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise HostError(done.returncode, done.stderr)
    return {
        spec.name: np.frombuffer((folder / f"out{i}").read_bytes(), like[spec.name].dtype).reshape(
            like[spec.name].shape
        )
        for i, spec in enumerate(model.outputs)
    }
