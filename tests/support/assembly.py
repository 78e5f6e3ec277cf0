"""Reading assembly that LLVM wrote for 64-bit ARM: innermost loops, and what is in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.tvm_api import cpu_pass_context, tvm
from graphopt.backends.targets.grammar import parse_target

_BRANCH = re.compile(r"^(?:b(?:\.\w+)?|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\w+,)\s+(\.LBB\w+)$")


@dataclass(frozen=True)
class Loop:
    """The instructions of a loop without inner ones."""

    instructions: list[str]

    def count(self, pattern: str) -> int:
        """How many instructions begin with a pattern."""
        return sum(re.match(pattern, line) is not None for line in self.instructions)

    @property
    def products(self) -> int:
        """Multiply-adds of vectors."""
        return self.count(r"fml[as]\s+v")

    @property
    def copies(self) -> int:
        """Copies from one vector register to another."""
        return self.count(r"mov\s+v\d+\.\w+, v\d+\.\w+$")

    @property
    def spills(self) -> int:
        """Vectors that go to the stack or come from it."""
        return self.count(r"(?:st|ld)u?[rp]\s+q\d+.*\[sp")


def compiled(function: Any, target: str) -> str:
    """The assembly of a function for a target."""
    module = tvm.IRModule({"kernel": function.with_attr("global_symbol", "kernel")})
    with cpu_pass_context():
        return str(tvm.compile(module, parse_target(target, 1).tvm_target()).mod.inspect_source("asm"))


def loops(assembly: str) -> list[Loop]:
    """The innermost loops, those with most multiply-adds first."""
    lines = [line.split("//")[0].strip() for line in assembly.splitlines()]
    starts = {line[:-1]: i for i, line in enumerate(lines) if re.match(r"\.LBB\w+:$", line)}
    found = []
    for i, line in enumerate(lines):
        branch = _BRANCH.match(line.replace("\t", " "))
        if branch is None or starts.get(branch.group(1), i) >= i:
            continue
        body = lines[starts[branch.group(1)] + 1 : i + 1]
        if not any(re.match(r"\.LBB\w+:$", inner) for inner in body):
            found.append(Loop([inner for inner in body if inner and inner[0] != "." and inner[-1] != ":"]))
    return sorted(found, key=lambda loop: -loop.products)
