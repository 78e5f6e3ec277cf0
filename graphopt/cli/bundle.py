"""What is kept of a crash, so that it can be reported: facts about the failure, never the model itself."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("graphopt", "apache-tvm", "apache-tvm-ffi", "onnx", "onnx-graphsurgeon", "numpy", "protobuf", "ml_dtypes")


def write_bundle(error: BaseException, argv: Sequence[str]) -> Path | None:
    """Write a folder with a report of ``error`` into the working directory, or the temporary one.

    It holds the traceback, versions, the command, and size and hash of the files that the command names: no contents
    of models or arrays.

    Returns:
        The folder, or None when nothing could be written.
    """
    name = f"graphopt-report-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    for parent in (Path.cwd(), Path(tempfile.gettempdir())):
        folder = parent / name
        try:
            folder.mkdir()
            (folder / "report.json").write_text(json.dumps(_facts(error, argv), indent=2) + "\n")
            trace = "".join(traceback.format_exception(error))
            (folder / "traceback.txt").write_text(trace)
        except OSError:
            continue
        return folder
    return None


def _facts(error: BaseException, argv: Sequence[str]) -> dict[str, Any]:
    return {
        "error": f"{type(error).__name__}: {error}",
        "command": ["graphopt", *argv],
        "versions": {"python": sys.version.split()[0], **_versions()},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "files": [_file(Path(word)) for word in argv if Path(word).is_file()],
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _file(path: Path) -> dict[str, Any]:
    from graphopt.runtime.store import file_sha256

    return {"name": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
