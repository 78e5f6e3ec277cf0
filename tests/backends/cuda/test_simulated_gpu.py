"""Simulated GPUs: whole artefacts with TVM's CUDA runtime and virtual machine, and what the driver does by itself."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.errors import DeviceError

pytest.importorskip("ziglang")

from tests.support.cuda_on_cpu import worker
from tests.support.cuda_on_cpu.finding import Finding
from tests.support.cuda_on_cpu.gpu import (
    SimulatedGpus,
    compiled_for_simulator,
    run_file,
    run_on_simulated_gpu,
    shared_gpu,
)
from tests.support.cuda_on_cpu.images import image

DIGITS = Path(graphopt.__file__).parent / "models" / "digits" / "digits_cnn.onnx"
SOURCE = """
extern "C" __global__ void add(float* x, float value, int n) { if (threadIdx.x < n) x[threadIdx.x] += value; }
"""
FEED = {"image": np.random.default_rng(0).random((3, 1, 8, 8), np.float32)}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artefact of a model with a symbolic batch, for two GPUs; `exact`, since tf32 has 11 bits."""
    return compiled_for_simulator(
        DIGITS, tmp_path_factory.mktemp("digits") / "digits.gopt", arch="sm_80,sm_90", exact=True
    )


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[SimulatedGpus]:
    gpus = SimulatedGpus("7.5,9.0")
    yield gpus
    gpus.close()


def test_digits(digits: Path) -> None:
    expected = graphopt.compile(DIGITS).run(FEED)
    found = run_on_simulated_gpu(digits, FEED)
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-5, atol=1e-5)


def test_a_mistake_in_a_model_is_found() -> None:
    def without_barriers(source: str) -> str:
        assert "__syncthreads();" in source
        return source.replace("__syncthreads();", "")

    with pytest.raises(Finding, match=r"_kernel, block \(") as caught:
        run_on_simulated_gpu(DIGITS, FEED, edit=without_barriers)
    assert caught.value.kind in ("race", "uninitialised")


def test_an_artefact_without_code_for_the_gpu(digits: Path, two_gpus: SimulatedGpus) -> None:
    with pytest.raises(DeviceError):
        two_gpus.call(run_file, str(digits), FEED, 0)


def _driver() -> Any:
    """The two libraries of the process, as one object."""
    libraries = [ctypes.CDLL(path) for path in sys.argv[2:4]]

    class Both:
        def __getattr__(self, name: str) -> Any:
            for library in libraries:
                if hasattr(library, name):
                    return getattr(library, name)
            raise AttributeError(name)

    return Both()


class _Device:
    """A simulated GPU by its driver's own functions."""

    def __init__(self, content: bytes) -> None:
        self.driver = _driver()
        self.module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        self.status = self.driver.cuModuleLoadData(ctypes.byref(self.module), content)
        if not self.status:
            self.driver.cuModuleGetFunction(ctypes.byref(self.function), self.module, b"add")
        self.memory = ctypes.c_void_p()
        self.driver.cudaMalloc(ctypes.byref(self.memory), ctypes.c_size_t(128))

    def made(self, name: str, *more: Any) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        assert getattr(self.driver, name)(ctypes.byref(handle), *more) == 0
        return handle

    def add(self, value: float, stream: ctypes.c_void_p, place: ctypes.c_void_p | None = None) -> int:
        arguments = [place or self.memory, ctypes.c_float(value), ctypes.c_int(32)]
        places = (ctypes.c_void_p * 3)(*(ctypes.addressof(a) for a in arguments))
        launched: int = self.driver.cuLaunchKernel(self.function, 1, 1, 1, 32, 1, 1, 0, stream, places, None)
        return launched

    def write(self, array: Any, stream: ctypes.c_void_p) -> None:
        assert (
            self.driver.cudaMemcpyAsync(self.memory, array.ctypes.data_as(ctypes.c_void_p), array.nbytes, 1, stream)
            == 0
        )

    def read(self, stream: ctypes.c_void_p) -> Any:
        array = np.empty(32, np.float32)
        assert (
            self.driver.cudaMemcpyAsync(array.ctypes.data_as(ctypes.c_void_p), self.memory, array.nbytes, 2, stream)
            == 0
        )
        return array


def _streams_are_queues(content: bytes) -> None:
    device = _Device(content)
    stream = device.made("cudaStreamCreateWithFlags", 1)
    host = device.made("cudaMallocHost", ctypes.c_size_t(128))
    pinned = np.frombuffer((ctypes.c_char * 128).from_address(host.value), np.float32)  # type: ignore[arg-type]
    pinned[:] = 0
    start = np.arange(32, dtype=np.float32)
    device.write(start, stream)
    start[:] = 99  # ordinary memory was read when the call came back
    assert device.add(0.5, stream) == 0
    assert device.driver.cudaMemcpyAsync(host, device.memory, 128, 2, stream) == 0
    assert not pinned.any()  # nothing has run
    assert device.driver.cudaStreamSynchronize(stream) == 0
    np.testing.assert_array_equal(pinned, np.arange(32) + 0.5)
    device.driver.cudaStreamDestroy(stream)
    device.driver.cudaFreeHost(host)
    device.driver.cudaFree(device.memory)


def _events_order_streams(content: bytes) -> None:
    device = _Device(content)
    first, second = (device.made("cudaStreamCreateWithFlags", 1) for _ in range(2))
    begin, end = device.made("cudaEventCreate"), device.made("cudaEventCreate")
    device.write(np.zeros(32, np.float32), first)
    device.driver.cudaEventRecord(begin, first)
    device.add(1, first)
    device.driver.cudaEventRecord(end, first)
    assert device.driver.cudaEventQuery(end) == 600
    device.driver.cudaStreamWaitEvent(second, end, 0)
    np.testing.assert_array_equal(device.read(second), np.ones(32))
    elapsed = ctypes.c_float(-1)
    assert device.driver.cudaEventElapsedTime(ctypes.byref(elapsed), begin, end) == 0
    assert elapsed.value >= 0
    for event in (begin, end):
        device.driver.cudaEventDestroy(event)
    for stream in (first, second):
        device.driver.cudaStreamDestroy(stream)
    device.driver.cudaFree(device.memory)


def _without_the_event(content: bytes) -> Any:
    """What another stream reads that doesn't wait."""
    device = _Device(content)
    first, second = (device.made("cudaStreamCreateWithFlags", 1) for _ in range(2))
    device.write(np.zeros(32, np.float32), second)
    device.driver.cudaStreamSynchronize(second)
    device.add(1, first)
    found = device.read(second)
    device.driver.cudaStreamDestroy(first)
    device.driver.cudaStreamDestroy(second)
    device.driver.cudaFree(device.memory)
    return found


def _graphs_replay(content: bytes) -> None:
    device = _Device(content)
    stream = device.made("cudaStreamCreateWithFlags", 1)
    device.write(np.zeros(32, np.float32), stream)
    assert device.driver.cudaStreamBeginCapture(stream, 0) == 0
    device.add(1, stream)
    device.add(2, stream)
    other = ctypes.c_void_p()
    assert device.driver.cudaMalloc(ctypes.byref(other), ctypes.c_size_t(4)) == 900
    assert device.driver.cudaStreamSynchronize(stream) == 900
    graph, runnable = ctypes.c_void_p(), ctypes.c_void_p()
    assert device.driver.cudaStreamEndCapture(stream, ctypes.byref(graph)) == 0
    np.testing.assert_array_equal(device.read(stream), np.zeros(32))  # captured work doesn't run
    assert device.driver.cudaGraphInstantiate(ctypes.byref(runnable), graph, ctypes.c_ulonglong(0)) == 0
    for _ in range(3):
        assert device.driver.cudaGraphLaunch(runnable, stream) == 0
    np.testing.assert_array_equal(device.read(stream), np.full(32, 9))
    device.driver.cudaGraphExecDestroy(runnable)
    device.driver.cudaGraphDestroy(graph)
    device.driver.cudaStreamDestroy(stream)
    device.driver.cudaFree(device.memory)


def _two_streams_in_a_graph(content: bytes) -> None:
    device = _Device(content)
    first, second = (device.made("cudaStreamCreateWithFlags", 1) for _ in range(2))
    fork, join = device.made("cudaEventCreate"), device.made("cudaEventCreate")
    device.write(np.zeros(32, np.float32), first)
    device.driver.cudaStreamSynchronize(first)
    assert device.driver.cudaStreamBeginCapture(first, 0) == 0
    device.driver.cudaEventRecord(fork, first)
    device.driver.cudaStreamWaitEvent(second, fork, 0)
    device.add(1, second)
    device.driver.cudaEventRecord(join, second)
    device.driver.cudaStreamWaitEvent(first, join, 0)
    device.add(2, first)
    graph, runnable = ctypes.c_void_p(), ctypes.c_void_p()
    assert device.driver.cudaStreamEndCapture(first, ctypes.byref(graph)) == 0
    assert device.driver.cudaGraphInstantiate(ctypes.byref(runnable), graph, ctypes.c_ulonglong(0)) == 0
    for event in (fork, join):  # a graph needs no events any more, nor the stream that joined it
        device.driver.cudaEventDestroy(event)
    device.driver.cudaStreamDestroy(second)
    for _ in range(2):
        assert device.driver.cudaGraphLaunch(runnable, first) == 0
    np.testing.assert_array_equal(device.read(first), np.full(32, 6))
    device.driver.cudaGraphExecDestroy(runnable)
    device.driver.cudaGraphDestroy(graph)
    device.driver.cudaStreamDestroy(first)
    device.driver.cudaFree(device.memory)


@pytest.mark.parametrize(
    "function", [_streams_are_queues, _events_order_streams, _graphs_replay, _two_streams_in_a_graph]
)
def test_streams(function: Callable[[bytes], None]) -> None:
    gpus = shared_gpu()
    before = gpus.call(worker.living)
    gpus.call(function, image(SOURCE, "sm_80"))
    assert gpus.call(worker.living) == before


def _read_as_host(content: bytes) -> int:
    return int(ctypes.c_char.from_address(_Device(content).memory.value or 0).value[0])


def test_device_memory_is_no_host_memory() -> None:
    gpus = SimulatedGpus(apart=True)
    with pytest.raises(RuntimeError, match="ended with -11"):
        gpus.call(_read_as_host, image(SOURCE, "sm_80"))
    assert not gpus.is_alive


def test_a_missing_wait_shows() -> None:
    np.testing.assert_array_equal(shared_gpu().call(_without_the_event, image(SOURCE, "sm_80")), np.zeros(32))


def _launch_beyond(content: bytes) -> None:
    device = _Device(content)
    beyond = ctypes.c_void_p((device.memory.value or 0) + 4)
    assert device.add(1, ctypes.c_void_p(), beyond) == 0  # the launch is accepted
    assert device.driver.cudaStreamSynchronize(None) == 719
    assert device.add(1, ctypes.c_void_p()) == 719  # and every call fails from then on


def test_a_failed_launch_is_reported_later() -> None:
    with pytest.raises(
        Finding, match=r"add, block \(0,0,0\), thread \(31,0,0\) .* at allocation \d+ of device 0\+128, which has 128"
    ):
        shared_gpu().call(_launch_beyond, image(SOURCE, "sm_80"))
    shared_gpu().call(_streams_are_queues, image(SOURCE, "sm_80"))  # the next test has a working device


def _statuses(content: bytes) -> list[int]:
    """Of loading an image on each device."""
    found = []
    driver = _driver()
    count = ctypes.c_int()
    driver.cudaGetDeviceCount(ctypes.byref(count))
    for index in range(count.value):
        driver.cudaSetDevice(index)
        device = _Device(content)
        found.append(device.status)
        driver.cudaFree(device.memory)
    driver.cudaSetDevice(0)
    return found


@pytest.mark.parametrize(("arch", "expected"), [("sm_75", [0, 209]), ("sm_80", [209, 209]), ("sm_90", [209, 0])])
def test_code_for_another_gpu(two_gpus: SimulatedGpus, arch: str, expected: list[int]) -> None:
    assert two_gpus.call(_statuses, image(SOURCE, arch)) == expected


def _device_count() -> tuple[int, int]:
    count = ctypes.c_int(-1)
    status: int = _driver().cudaGetDeviceCount(ctypes.byref(count))
    return status, count.value


def _allocated(sizes: list[int]) -> list[int]:
    driver, found, places = _driver(), [], []
    for size in sizes:
        place = ctypes.c_void_p()
        found.append(driver.cudaMalloc(ctypes.byref(place), ctypes.c_size_t(size)))
        places.append(place)
    for place in places:
        driver.cudaFree(place)
    return found


def test_an_old_driver_and_little_memory() -> None:
    gpus = SimulatedGpus("8.6", driver=12040, memory=1000)
    assert gpus.call(_device_count) == (35, 0)
    gpus.close()
    gpus = SimulatedGpus("8.6", memory=1000)
    assert gpus.call(_device_count) == (0, 1)
    assert gpus.call(_allocated, [600, 600, 400, 1]) == [0, 2, 0, 2]
    assert gpus.call(_allocated, [1000]) == [0]
    gpus.close()


def test_no_device() -> None:
    gpus = SimulatedGpus("")
    assert gpus.call(_device_count) == (100, 0)
    gpus.close()


def _memory_of_another_device(content: bytes) -> None:
    driver = _driver()
    driver.cudaSetDevice(0)
    foreign = ctypes.c_void_p()
    driver.cudaMalloc(ctypes.byref(foreign), ctypes.c_size_t(128))
    driver.cudaSetDevice(1)
    try:
        device = _Device(content)
        device.add(1, ctypes.c_void_p(), foreign)
        driver.cudaStreamSynchronize(None)
    finally:
        driver.cudaFree(device.memory)
        driver.cudaFree(foreign)
        driver.cudaSetDevice(0)


def test_memory_of_another_device(two_gpus: SimulatedGpus) -> None:
    with pytest.raises(Finding, match=r"accesses allocation \d+ of device 0 on device 1"):
        two_gpus.call(_memory_of_another_device, image(SOURCE, "sm_90"))
