"""What runs a model as the standard says: errors tell what to do."""

from __future__ import annotations

import pytest
from onnx.parser import parse_model

from graphopt.driver import reference
from graphopt.errors import UserError

OLD = """<ir_version: 9, opset_import: ["": 18]> g (uint8[4] x) => (float[4] y) <float s={0.5}> {
    y = DequantizeLinear(x, s)
}"""


@pytest.mark.parametrize(("installed", "hint"), [(False, "pip install"), (True, "--reference")])
def test_an_operator_that_the_reference_lacks(installed: bool, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnx's has no DequantizeLinear of opset 13 to 18, in which quantized models often are."""
    monkeypatch.setattr(reference, "has_onnxruntime", lambda: installed)
    with pytest.raises(UserError, match="can't load the model") as found:
        reference.make_reference(parse_model(OLD), "onnx")
    assert hint in (found.value.hint or "")
