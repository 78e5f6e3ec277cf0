"""The check of the lengths of a recurrent layer's sequences, where run time alone knows them."""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.register_tile import bind
from graphopt.backends.specs.recurrent import RecurrentSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.tensors.checks import refusal
from graphopt.backends.tensors.index import i64

TOO_LONG = "a sequence is longer than the data"


def check_lengths(lengths: View, spec: RecurrentSpec, label: str, name: str) -> None:
    """Emits the end of the run where a length is negative or beyond the data."""
    with T.serial(0, spec.batch) as row:
        length, last = bind(lengths[row].astype("int64")), bind(i64(spec.time))
        with T.If(tirx.Or(length < 0, length > last)), T.Then():
            shown = [(name, length), ("least", i64(0)), ("most", last)]
            T.evaluate(refusal(label, f"{spec.op}: {TOO_LONG}", shown))
