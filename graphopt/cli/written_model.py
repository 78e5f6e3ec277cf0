"""What verbs have in common that write a model, and on request a report of what they did to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.cli.options import check_output
from graphopt.errors import UserError
from graphopt.whole_files import whole_files


def check_written(output: Path, *inputs: Path, more: Mapping[str, Path | None] | None = None) -> None:
    """Refuse names that can't be written, before any work is done.

    Args:
        output: the model to be written, an ``.onnx`` file.
        inputs: files that are read.
        more: other files to be written, by the option that names them; None where it wasn't given.

    Raises:
        UserError: with a hint.
    """
    if output.suffix != ".onnx":
        raise UserError(f"{output} is no .onnx file", code="bad-output", hint=f"write to {output.with_suffix('.onnx')}")
    check_output(output, *inputs)
    written = {output.resolve(): "-o"}
    for option, path in (more or {}).items():
        if path is None:
            continue
        check_output(path, *inputs)
        other = written.setdefault(path.resolve(), option)
        if other != option:
            raise UserError(
                f"{option} and {other} name the same file", code="bad-output", hint="give one of them another name"
            )


def write_report(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts as JSON, complete or not at all.

    Raises:
        UserError: the folder can't be written to.
    """
    try:
        with whole_files(path.parent, [path.name]) as part:
            (part / path.name).write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(
            f"can't write {path}: {error.strerror or error}", code="cannot-write",
            hint="check that the folder is writable and has room",
        ) from error  # fmt: skip
