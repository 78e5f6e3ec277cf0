"""The architecture, enforced: which part may import which, what ``import graphopt`` costs, and how long a file gets."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("errors", "whole_files", "ir", "ops", "rewrite", "passes", "backends", "driver", "cli")
"""Each may import those before it, and itself."""
ALLOWED = {
    **{layer: set(LAYERS[: i + 1]) for i, layer in enumerate(LAYERS)},
    # What runs a compiled model knows the entry signature's types, and TVM through the back ends' seam.
    "runtime": {"errors", "whole_files", "ir", "backends", "runtime"},
    "models": {"errors", "models"},
    # The ONNX backend interface is an entry like the command line.
    "backend": {"errors", "driver", "runtime", "ir", "ops", "rewrite", "passes", "backends"},
    "__init__": {*LAYERS, "runtime", "backend"},
}
ALLOWED["driver"].add("runtime")
ALLOWED["cli"] |= {"runtime", "models"}

BACKENDS = ("base", "tensors", "lower", "specs", "templates", "build", "program", ("cpu", "cuda"), "targets")
"""Folders of backends: each may import those before it, and itself. Those of one tuple don't know of one another."""

MAX_LINES = 400
TVM_OUTSIDE_BACKENDS = {"runtime"}
"""Imports TVM inside functions only."""


def sources() -> list[Path]:
    """Every source file, reached through the package's own names."""
    return sorted(p for part in ("graphopt", "passes", "backends", "models") for p in (ROOT / part).rglob("*.py"))


def module_of(path: Path) -> str:
    """``graphopt.x.y`` of a file; the symlinked folders are part of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "graphopt" else ("graphopt", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """The second word: ``ir``, ``cli``, ..."""
    return module.split(".")[1] if "." in module else "__init__"


@cache
def tree(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(path.read_text())


LOOKED_FOR = (
    ast.Set, ast.Tuple, ast.List, ast.Dict, ast.ImportFrom, ast.Compare, ast.Assign, ast.Delete, ast.AugAssign, ast.AnnAssign,
    ast.Call, ast.ExceptHandler,
)  # fmt: skip
"""The kinds of nodes that a test below asks for."""


@cache
def nodes(path: Path) -> dict[type[ast.AST], list[Any]]:
    """The nodes of a file by kind, those of `LOOKED_FOR`: walking through all files takes seconds, so it is done once."""
    found: dict[type[ast.AST], list[Any]] = {kind: [] for kind in LOOKED_FOR}
    for node in ast.walk(tree(path)):
        if type(node) in found:
            found[type(node)].append(node)
    return found


def each(path: Path, *kinds: type[ast.AST]) -> Iterator[Any]:
    """The nodes of a file that are of one of the kinds."""
    for kind in kinds:
        yield from nodes(path)[kind]


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """What is directly inside a node and may be an import or hold one."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
            yield child


@cache
def imports(path: Path) -> tuple[tuple[str, int, bool], ...]:
    """Imported modules as (name, line, at the top level of the file and at run time)."""

    def visit(node: ast.AST, lazy: bool) -> Iterator[tuple[str, int, bool]]:
        for child in statements(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno, not lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: relative import"
                yield child.module or "", child.lineno, not lazy
                if child.module == "graphopt":
                    yield from ((f"graphopt.{alias.name}", child.lineno, not lazy) for alias in child.names)
            else:
                inner = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
                    isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
                )
                yield from visit(child, lazy or inner)

    return tuple(visit(tree(path), False))


def test_dependencies_point_one_way() -> None:
    wrong = []
    for path in sources():
        here = part_of(module_of(path))
        for name, line, _ in imports(path):
            if not name.startswith("graphopt."):
                continue
            there = part_of(name)
            if there not in ALLOWED[here]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {here} imports {name}")
    assert not wrong, "\n".join(wrong)


def import_graph() -> dict[str, set[str]]:
    """The modules that each module imports at any time, inside functions too; what only type checkers read is left out."""
    paths = {module_of(path): path for path in sources()}

    def visit(node: ast.AST) -> Iterator[str]:
        for child in statements(node):
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                for alias in child.names:
                    inner = f"{child.module}.{alias.name}"
                    yield inner if inner in paths else child.module or ""
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                for other in child.orelse:
                    yield from visit(other)
            else:
                yield from visit(child)

    return {name: {n for n in visit(tree(path)) if n in paths} for name, path in paths.items()}


def cycles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of more than one module, and modules that import themselves."""
    graph = {name: set(there) for name, there in graph.items()}
    while leaves := {name for name, there in graph.items() if not there}:
        graph = {name: there - leaves for name, there in graph.items() if name not in leaves}

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        todo = [start]
        while todo:
            new = graph[todo.pop()] - found
            found |= new
            todo += new
        return found

    below = {name: reached(name) for name in graph}
    found = {frozenset({name} | {n for n in below[name] if name in below[n]}) for name in graph if name in below[name]}
    return [set(c) for c in found]


def test_cycles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": set(), "f": {"f", "a"}}
    assert sorted(map(sorted, cycles(graph))) == [["a", "b", "c"], ["f"]]


def test_no_modules_import_one_another() -> None:
    assert cycles(import_graph()) == []


@cache
def operator_names() -> frozenset[str]:
    """Names of ONNX operators."""
    return frozenset(schema.name for schema in onnx.defs.get_all_schemas_with_history())


def operator_sets(path: Path) -> Iterator[tuple[int, frozenset[str]]]:
    """Displays of nothing but names of operators, as (line, names): sets, tuples and lists of two or more, and the keys of
    dicts of three or more."""
    for node in each(path, ast.Set, ast.Tuple, ast.List, ast.Dict):
        elements: list[ast.expr] = []
        if isinstance(node, (ast.Set, ast.Tuple, ast.List)):
            elements = [e for e in node.elts if not isinstance(e, ast.Starred)]
        elif isinstance(node, ast.Dict):
            elements = [key for key in node.keys if key is not None]
        found = [e.value for e in elements if isinstance(e, ast.Constant) and e.value in operator_names()]
        least = 3 if isinstance(node, ast.Dict) else 2
        if len(found) == len(elements) and len(set(found)) >= least:
            yield node.lineno, frozenset(found)


def test_no_two_modules_hold_the_same_set_of_operators() -> None:
    """What several modules know of operators is a trait, which a new operator gets where it is registered."""
    places: dict[frozenset[str], dict[str, int]] = {}
    for path in sources():
        for line, names in operator_sets(path):
            places.setdefault(names, {}).setdefault(str(path.relative_to(ROOT)), line)
    assert {", ".join(sorted(names)): where for names, where in places.items() if len(where) > 1} == {}


def test_no_module_imports_a_set_of_operators() -> None:
    tables = set()
    for path in sources():
        lines = [line for line, _ in operator_sets(path)]
        for node in tree(path).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(node.lineno <= line <= (node.end_lineno or 0) for line in lines):
                tables |= {(module_of(path), t.id) for t in targets if isinstance(t, ast.Name)}
    assert len(tables) > 5
    wrong = []
    for path in sources():
        for node in each(path, ast.ImportFrom):
            wrong += [f"{path}:{node.lineno}: {a.name}" for a in node.names if (node.module, a.name) in tables]
    assert wrong == []


def allowed_in_backends(folder: str) -> set[str]:
    """Folders of backends that files in ``folder`` may import."""
    below: set[str] = set()
    for layer in BACKENDS:
        together = {layer} if isinstance(layer, str) else set(layer)
        if folder in together:
            return below | {folder}
        below |= together
    raise AssertionError(f"backends/{folder} has no place in BACKENDS")


def test_folders_of_backends_are_layers() -> None:
    """Type-checking imports count too: what a layer is written in terms of lies below it."""
    wrong = []
    for path in sources():
        here = module_of(path).split(".")
        if here[1:2] != ["backends"] or len(here) < 3:
            continue
        for name, line, _ in imports(path):
            there = name.split(".")
            if there[:2] != ["graphopt", "backends"] or len(there) < 3:
                continue
            if there[2] not in allowed_in_backends(here[2]):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {here[2]} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_only_targets_know_which_kinds_of_targets_there_are() -> None:
    """Everybody else asks the platform, or `Caps`, for the fact that matters."""
    kinds = {"x86", "arm", "cuda"}
    wrong = []
    for path in sources():
        if module_of(path).startswith("graphopt.backends.targets."):
            continue
        for node in each(path, ast.Compare):
            if any(
                isinstance(part, ast.Constant) and part.value in kinds
                for side in (node.left, *node.comparators)
                for part in (side.elts if isinstance(side, (ast.Tuple, ast.Set, ast.List)) else [side])
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


def test_symlinked_folders_are_never_imported_bare() -> None:
    bare = {"passes", "backends", "models"}
    suspicious = re.compile(rf"^\s*(from|import)\b.*(?<![.\w])({'|'.join(bare)})\b", re.MULTILINE)
    for path in [*sources(), *(ROOT / "tests").rglob("*.py")]:
        if not suspicious.search(path.read_text()):
            continue  # parsing every test takes seconds
        wrong = [(name, line) for name, line, _ in imports(path) if name.split(".")[0] in bare]
        assert not wrong, f"{path}: {wrong}"


def test_onnx_graphsurgeon_has_one_importer() -> None:
    users = {module_of(p) for p in sources() if any(n.split(".")[0] == "onnx_graphsurgeon" for n, *_ in imports(p))}
    assert users == {"graphopt.ir.onnx_io"}


def test_tvm_stays_behind_the_back_ends() -> None:
    wrong = []
    for path in sources():
        part = part_of(module_of(path))
        for name, line, at_top in imports(path):
            if name.split(".")[0] not in ("tvm", "tvm_ffi") or part == "backends":
                continue
            if part not in TVM_OUTSIDE_BACKENDS or at_top:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not wrong, "\n".join(wrong)


def test_only_the_editor_and_the_reader_change_the_structure_of_graphs() -> None:
    """Nodes, operands, results, attributes and who uses what. Types and contents belong to inference."""
    structure = {"nodes", "inputs", "outputs", "attrs", "uses", "producer", "escapes"}
    changing = {"append", "remove", "insert", "extend", "clear", "pop", "update", "setdefault"}
    others = {
        "self",
        "group",
        "host",
        "region",
        "report",
        "program",
    }  # names of what has such fields and is no part of a graph
    wrong = []
    for path in sources():
        module = module_of(path)
        if part_of(module) == "backends" or module in {f"graphopt.ir.{m}" for m in ("editor", "graph", "onnx_io")}:
            continue
        for node in each(path, ast.Assign, ast.Delete, ast.AugAssign, ast.AnnAssign, ast.Call):
            targets: list[ast.expr] = []
            if isinstance(node, (ast.Assign, ast.Delete)):
                targets = [e for t in node.targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]
            elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
                targets = [node.target]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in changing:
                targets = [node.func.value]
            for target in targets:
                while isinstance(target, ast.Subscript):
                    target = target.value
                if isinstance(target, ast.Attribute) and target.attr in structure:
                    owner = target.value
                    if not (isinstance(owner, ast.Name) and owner.id in others):
                        wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(target)}")
    assert not wrong, "\n".join(wrong)


def test_only_the_command_line_prints() -> None:
    wrong = []
    for path in sources():
        module = module_of(path)
        if part_of(module) == "cli" or module == "graphopt.models.digits.train":
            continue
        for node in each(path, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id == "print":
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


def test_files_are_short_and_have_one_concept() -> None:
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in sources()}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}
    for path in sources():
        assert path.stem not in ("utils", "util", "helpers", "misc"), path


def test_no_bare_except() -> None:
    for path in sources():
        for node in each(path, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno}"


def test_folders_of_the_package_are_the_top_level_ones() -> None:
    for name in ("passes", "backends", "models"):
        link = ROOT / "graphopt" / name
        assert link.is_symlink()
        assert link.resolve() == (ROOT / name).resolve()


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import graphopt", ("onnx", "tvm", "numpy")),
        ("import graphopt; dir(graphopt); graphopt.GraphOptError", ("onnx", "tvm", "numpy")),
        ("import graphopt.cli.main", ("onnx", "tvm")),
        ("import graphopt.runtime.model, graphopt.runtime.load", ("onnx", "tvm")),
        ("import graphopt; graphopt.import_onnx, graphopt.optimize, graphopt.export_onnx", ("tvm",)),
    ],
)
def test_imports_cost_only_what_is_used(code: str, absent: tuple[str, ...]) -> None:
    check = f"{code}\nimport sys\nfound = set(sys.modules) & set({absent!r})\nassert not found, found"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
