"""optimize() and export_onnx()."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.driver import optimizing
from graphopt.errors import ModelError, UserError
from graphopt.ir.printer import format_graph
from graphopt.rewrite.remarks import Remarks
from tests.support.onnx_graphs import graph_of, ops, rand
from tests.support.ort import run_ort

BODY = "c = Conv(x, w)\nn = BatchNormalization(c, s, s, s, s)\ny = Relu(n)"


def conv():
    return graph_of({"x": "float[N,4,5,5]"}, BODY, w=rand(6, 4, 3, 3), s=rand(6, positive=True))


def test_the_input_is_untouched_and_the_result_is_new():
    g = conv()
    before = format_graph(g)
    assert ops(graphopt.optimize(g)) == ["Conv", "Relu"]
    assert format_graph(g) == before
    assert ops(graphopt.optimize(g, 0)) == ops(g)


def test_a_level_among_passes():
    whole = format_graph(graphopt.optimize(conv()))
    assert format_graph(graphopt.optimize(conv(), passes=["O2"])) == whole
    assert format_graph(graphopt.optimize(conv(), passes=["dead-code", "O2", "dead-code"])) == whole
    assert ops(graphopt.optimize(conv(), passes=["O0"])) == ops(conv())
    with pytest.raises(UserError, match="no optimisation level 7"):
        graphopt.optimize(conv(), passes=["O7"])


def test_skip_and_own_passes():
    assert "BatchNormalization" in ops(graphopt.optimize(conv(), skip=["fold-batch-norm"]))
    assert ops(graphopt.optimize(conv(), passes=["lower-batch-norm", "fold-affine"])) == ["Conv", "Relu"]
    with pytest.raises(UserError, match="fold-batch-norm"):
        graphopt.optimize(conv(), skip=["fold-batchnorm"])


def test_remarks_tell_what_was_done():
    remarks = Remarks()
    graphopt.optimize(conv(), remarks=remarks)
    assert any(r.applied and r.rule == "fold-batch-norm-into-linear" for r in remarks)


def test_export_writes_all_or_nothing(tmp_path):
    path = tmp_path / "m.onnx"
    model = graphopt.export_onnx(conv(), path)
    assert onnx.load(path) == model
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    with pytest.raises(ModelError, match="can't write"):
        graphopt.export_onnx(conv(), tmp_path / "missing" / "m.onnx")


def test_large_weights_go_to_a_file_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(optimizing, "_EXTERNAL_LIMIT", 100)
    path, feeds = tmp_path / "m.onnx", {"x": rand(1, 4, 5, 5)}
    model = graphopt.export_onnx(graph_of({"x": "float[N,4,5,5]"}, "y = Conv(x, w)", w=rand(60, 4, 3, 3)), path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert np.array_equal(run_ort(onnx.load(path), feeds)[0], run_ort(model, feeds)[0])


def test_importing_graphopt_is_light():
    code = "import sys, graphopt; sys.exit(any(m in sys.modules for m in ('onnx', 'tvm', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
