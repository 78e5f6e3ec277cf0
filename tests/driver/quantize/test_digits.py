"""The digits keep their accuracy when graphopt quantizes them and multiplies their integers."""

from __future__ import annotations

import graphopt
from graphopt.models import zoo
from graphopt.models.digits import digits_feeds


def test_digits_in_integers() -> None:
    images, labels = zoo.digits_test()
    shapes = {"image": "Nx1x8x8"}
    quantized, _ = graphopt.quantize(zoo.get("digits").path(), digits_feeds(), compare=False, threads=1, shapes=shapes)
    compiled = graphopt.compile(quantized, "x86-64-v3", threads=1)
    assert sum("vpmaddwd" in k.config for k in compiled.program.kernels) >= 4
    float_ = graphopt.compile(zoo.get("digits").path(), "x86-64-v3", threads=1, shapes=shapes)
    right = [(next(iter(m.run({"image": images}).values())).argmax(1) == labels).sum() for m in (compiled, float_)]
    assert right[0] >= right[1] - 1
    assert right[1] >= 440
