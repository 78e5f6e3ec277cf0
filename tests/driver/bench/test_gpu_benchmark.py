"""benchmarks/gpu.py: the folder for a machine with a GPU is made here and run, on a simulated GPU and on a real one if there is."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.backends.targets.cuda.caps import detect_sm

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu")


def _make(gpu: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    arguments = ["gpu.py", "--make-folder", str(folder), "--batches", "2", "digits", *options]
    monkeypatch.setattr(sys, "argv", arguments)
    gpu.main()


def _run(folder: Path, preloaded: list[Path]) -> tuple[int, str]:
    """Run what is in the folder in a process that finds graphopt and TVM there, from another folder."""
    program = """if True:
        import ctypes, os, runpy, sys
        for library in sys.argv[2:]:
            ctypes.CDLL(library, mode=os.RTLD_GLOBAL | os.RTLD_NOW)
        script = sys.argv[1]
        sys.argv = [script, "--repeat", "2", "--no-torch", "--write", "report.md", "--json", "report.json"]
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            import graphopt, tvm
            print(graphopt.__file__, tvm.__file__, "tvm.relax" in sys.modules, flush=True)
            os._exit(end.code)  # TVM's own end would meet libraries that are gone
    """
    command = [sys.executable, "-c", program, str(folder / "run.py"), *map(str, preloaded)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["CUDA_ON_CPU_DEVICES"] = "8.0"
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder.parent, env=environment, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


def test_the_folder_runs_by_itself(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang")
    from tests.support.cuda_on_cpu.images import simulated_compiler
    from tests.support.cuda_on_cpu.toolchain import driver_libraries

    folder = tmp_path / "folder"
    with simulated_compiler(checked=False):
        _make(gpu, folder, monkeypatch, "--precisions", "fp16", "--target", "cuda:sm_80")
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 30 << 20
    assert not list(folder.rglob("*compiler*.so"))
    status, printed = _run(folder, driver_libraries())
    assert status == 0, printed
    assert f"{folder}/site/graphopt/__init__.py {folder}/site/tvm/__init__.py False" in printed
    outcomes = json.loads((tmp_path / "report.json").read_text())
    assert [(o["model"], o["precision"], o["batch"], o["failed"]) for o in outcomes] == [("digits", "fp16", 2, "")]
    assert all(o["run_us"] > 0 and o["graph_us"] > 0 for o in outcomes)
    assert 0 < outcomes[0]["error"] < 1e-2
    report = (tmp_path / "report.md").read_text()
    assert "Simulated GPU" in report.splitlines()[0]
    # a result that is wrong is told
    expected = folder / "digits-fp16-2.npz"
    with np.load(expected) as arrays:
        np.savez(expected, **{name: arrays[name] * 1.1 for name in arrays.files})
    status, printed = _run(folder, driver_libraries())
    assert status == 1
    assert "digits-fp16-2: wrong results" in printed


def test_weights_repeat_by_primes(gpu: Any) -> None:
    weights = np.random.default_rng(0).normal(2, 3, (64, 40, 3, 3)).astype(np.float32)
    repeated = gpu.repeated(weights)
    assert repeated.shape == weights.shape
    assert abs(float(repeated.std()) - 3) < 0.5
    np.testing.assert_array_equal(repeated[:, 11:], repeated[:, :-11])
    assert not np.array_equal(repeated[13:], repeated[:-13])
    assert len(np.unique(repeated)) <= 4 * 13 * 11 * 9
    np.testing.assert_array_equal(repeated, gpu.repeated(weights))


@pytest.mark.gpu
@pytest.mark.skipif(detect_sm() is None, reason="no GPU")
def test_on_the_gpu_that_is_here(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    _make(gpu, folder, monkeypatch, "--precisions", "fp32,fp16,bf16,int8", "--target", f"cuda:sm_{detect_sm()}")
    status, printed = _run(folder, [])
    assert status == 0, printed
