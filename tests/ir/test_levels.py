"""The levels say the same wherever they are explained."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import graphopt
from graphopt.cli.options import LevelOpt
from graphopt.driver.compiling import to_program
from graphopt.driver.compiling_with_data import compile
from graphopt.driver.optimizing import optimize
from graphopt.driver.pruning import prune
from graphopt.driver.sparsity import sparsify
from graphopt.errors import UserError
from graphopt.ir.levels import DEFAULT_LEVEL, LEVELS, levels_text
from graphopt.passes.pipelines import level_pipeline
from tests.support.onnx_graphs import graph_of

DOCS = Path(__file__).parents[2] / "docs"


def test_the_compiler_s_docstring_explains_every_level() -> None:
    text = " ".join((compile.__doc__ or "").split())
    for level, meaning in LEVELS.items():
        assert f"{level}: {meaning}" in text


def test_the_guide_and_the_help_explain_every_level() -> None:
    guide = (DOCS / "cli.md").read_text()
    for level, meaning in LEVELS.items():
        assert f"- `-O{level}`: {meaning}\n" in guide
    assert levels_text() in LevelOpt.__metadata__[0].help  # type: ignore[attr-defined]


def test_every_level_has_a_pipeline_and_no_other_has() -> None:
    for level in LEVELS:
        level_pipeline(level)
    with pytest.raises(UserError) as refused:
        level_pipeline(max(LEVELS) + 1)
    assert refused.value.hint == levels_text()


@pytest.mark.parametrize("function", [compile, to_program, optimize])
def test_the_default_level_is_one(function: Any) -> None:
    assert inspect.signature(function).parameters["level"].default == DEFAULT_LEVEL


@pytest.mark.parametrize("function", [compile, to_program, prune, sparsify])
def test_python_compiles_for_this_machine_unless_told_otherwise(function: Any) -> None:
    assert inspect.signature(function).parameters["target"].default == "native"


def test_a_model_compiled_without_a_target_is_for_this_machine() -> None:
    program = to_program(graph_of({"x": "float[2,3]"}, "y = Relu(x)"))[2]
    assert program.target.name == to_program(graph_of({"x": "float[2,3]"}, "y = Relu(x)"), "native")[2].target.name
    assert graphopt.compile is compile
