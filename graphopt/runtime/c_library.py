"""Compiled models as C libraries: a shared library with no runtime behind it, and a header."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.errors import ArtifactError, UserError
from graphopt.ir.dtypes import DType
from graphopt.runtime.signature import TensorSpec
from graphopt.whole_files import whole_files

if TYPE_CHECKING:
    from graphopt.runtime.model import CompiledModel

_TYPES = {
    DType.f32: "float", DType.f64: "double", DType.bool_: "uint8_t",
    **{DType[f"{sign}{bits}"]: f"{'u' * (sign == 'u')}int{bits}_t" for sign in "iu" for bits in (8, 16, 32, 64)},
    **dict.fromkeys((DType.f16, DType.bf16), "uint16_t"),
    **dict.fromkeys((DType.f8e4m3fn, DType.f8e4m3fnuz, DType.f8e5m2, DType.f8e5m2fnuz), "uint8_t"),
}  # fmt: skip
_KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        "auto break case char const continue default do double else enum extern float for goto if inline int long register"
        " restrict return short signed sizeof static struct switch typedef union unsigned void volatile while bool class delete"
        " new private public protected template this throw try catch namespace operator using virtual friend true false memory",
    )
)
"""Of C and C++, and the name of a parameter."""


def save_c_library(model: CompiledModel, path: str | os.PathLike[str]) -> list[Path]:
    """Write a shared library and, beside it, the header that declares it; both appear complete or not at all.

    The library calls the model's kernels and needs the C library, libm and threads only, neither TVM nor Python. The header has
    a function ``<stem>_run`` with a parameter for each input and output, by their names as far as C allows, and for the memory to
    work in.

    Args:
        model: just compiled for a CPU, under Linux.
        path: of the library; the header gets its stem, of which C names are made.

    Raises:
        UserError: sizes are open, values decide what is computed, or it isn't compiled for such a target.
        CompileError: no linker is at hand.
        ArtifactError: the files can't be written.
    """
    from graphopt.backends.targets.compilation import export_c_library

    library = Path(path)
    name = _identifiers([library.stem])[0]
    if model.built is None or model.program is None:
        raise ArtifactError("a model that was loaded can't become a C library", hint="compile it again, to a .so file")
    if model.states:
        raise UserError(
            "a C library keeps no state between runs", code="no-state", hint="leave state out, and pass it to each run"
        )
    names = [library.name, library.with_suffix(".h").name]
    try:
        with whole_files(library.parent, names) as folder:
            memory = export_c_library(model.program, model.built, name, folder / names[0])
            (folder / names[1]).write_text(_header(name, library.name, model, memory), encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"cannot write {library}: {error}", hint="check the folder and the room in it") from error
    return [library.parent / each for each in names]


def _header(name: str, library: str, model: CompiledModel, memory: int) -> str:
    """Text of the header."""
    from graphopt.backends.build.c_library import declarations

    assert model.target is not None
    specs = [*model.inputs, *model.outputs]
    for spec in specs:
        if spec.dtype not in _TYPES:
            raise UserError(
                f"{spec} has a type that C has none for", code="unsupported-type", hint="cast it in the model"
            )
    words = _identifiers([spec.name for spec in specs])
    inputs, outputs = words[: len(model.inputs)], words[len(model.inputs) :]
    parameters = [f"const {_TYPES[s.dtype]} *{w}" for s, w in zip(model.inputs, inputs)]
    parameters += [f"{_TYPES[s.dtype]} *{w}" for s, w in zip(model.outputs, outputs)]
    upper = name.upper()
    lines = [
        f"/* {library}: the model {_plain(Path(model.source).name)}, compiled by graphopt for {_plain(model.target.name)}.",
        " *",
        *(f" * {word}: {_described(spec)}" for spec, word in zip(specs, words)),
        " */",
    ]
    guards = f"#ifndef {upper}_H\n#define {upper}_H\n"
    run = [
        f"/* Bytes of memory that {name}_run works in. */",
        f"#define {upper}_MEMORY_BYTES {memory}",
        "",
        f"extern const graphopt_model {name}_model;",
        "",
        "/* Runs the model, see graphopt_run. The call of a function and a table: no locks, no memory of its own. */",
        f"static inline int32_t {name}_run({', '.join([*parameters, 'void *memory'])}) {{",
        f"  const void *const inputs[] = {{{', '.join(inputs) or '0'}}};",
        f"  void *const outputs[] = {{{', '.join(outputs) or '0'}}};",
        f"  return graphopt_run(&{name}_model, inputs, outputs, memory);",
        "}",
    ]
    opening, closing = '#ifdef __cplusplus\nextern "C" {\n#endif\n', "\n#ifdef __cplusplus\n}\n#endif\n"
    return "\n".join(["\n".join(lines), guards, declarations(), opening, "\n".join(run), closing, "#endif\n"])


def _described(spec: TensorSpec) -> str:
    note = f", {spec.dtype} as its bits" if spec.dtype in (DType.f16, DType.bf16) or spec.dtype.bits < 8 else ""
    return f"{_plain(str(spec))}{note}"


def _plain(text: str) -> str:
    """Text that can't end a comment."""
    return re.sub(r"[^ -~]", "?", text).replace("*/", "* /")


def _identifiers(names: Sequence[str]) -> list[str]:
    """A C identifier for each name, all different."""
    found: list[str] = []
    for name in names:
        word = re.sub(r"[^0-9A-Za-z_]", "_", name) or "_"
        if word[0].isdigit() or word[0] == "_":
            word = "x" + word
        while word in _KEYWORDS or word in found:
            word += "_"
        found.append(word)
    return found
