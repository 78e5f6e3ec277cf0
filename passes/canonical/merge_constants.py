"""Equal initializers become one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.graph import Graph, Value
from graphopt.rewrite.passes import Pass, PassContext, register_pass


@register_pass
@dataclass(frozen=True)
class MergeConstants(Pass):
    """Keeps one of all constants with the same type and bytes (so 0.0 and -0.0 stay apart, and NaN equals itself)."""

    name: ClassVar[str] = "merge-constants"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Compare only constants of equal type: most differ in shape already, and their bytes are never read."""
        groups: dict[object, list[Value]] = {}
        for value in graph.constants():
            groups.setdefault(value.type, []).append(value)
        editor = ctx.editor(graph)
        for group in groups.values():
            if len(group) < 2:
                continue
            first: dict[bytes, Value] = {}
            for value in group:
                keep = first.setdefault(_digest(value), value)
                if keep is not value and not value.escapes:
                    editor.replace(value, keep)


def _digest(value: Value) -> bytes:
    assert value.data is not None
    if value.data.dtype == object:
        return repr(value.data.tolist()).encode()
    return hashlib.blake2b(np.ascontiguousarray(value.data).tobytes(), digest_size=16).digest()
