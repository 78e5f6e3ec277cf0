"""Mistakes to put into the CUDA C of tensor-core kernels: what a slip of a template's author would make of it.

Each is an edit of the generated text of one problem. An edit that finds nothing to change is an error: the template was changed,
and the pattern has to follow it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

Edit = Callable[[str], str]
_LAST = -1


@dataclass(frozen=True)
class Mutation:
    """A mistake.

    Attributes:
        name: what is wrong.
        problem: whose kernel it is put into (``PROBLEMS`` of the test).
        edit: from the right source to the wrong one.
    """

    name: str
    problem: str
    edit: Edit


def replaced(pattern: str, by: str | Callable[[re.Match[str]], str], which: int | None = None) -> Edit:
    """An edit that replaces the matches of a pattern, all or the one with the given number.

    Raises:
        ValueError: there is no such match, or the text stays as it was.
    """

    def edit(source: str) -> str:
        found = list(re.finditer(pattern, source))
        chosen = found if which is None else [found[which]] if found else []
        if not chosen:
            raise ValueError(f"nothing matches {pattern!r}: does the template emit something else now?")
        for match in reversed(chosen):
            text = by(match) if callable(by) else match.expand(by)
            source = source[: match.start()] + text + source[match.end() :]
        return source

    return edit


def more(group: int = 1, by: int = 1) -> Callable[[re.Match[str]], str]:
    """A replacement that adds to the number in a group and keeps the rest."""

    def text(match: re.Match[str]) -> str:
        start, end = (at - match.start() for at in match.span(group))
        whole = match[0]
        return whole[:start] + str(int(match[group]) + by) + whole[end:]

    return text


def without_zero_fill(source: str) -> str:
    """Asynchronous copies that do nothing where they should fill with zeros."""

    def text(match: re.Match[str]) -> str:
        call, arguments = match[1], match[2]
        depth = at = 0
        for at in range(len(arguments) - 1, -1, -1):  # the condition is behind the last comma that isn't in parentheses
            depth += {")": 1, "(": -1}.get(arguments[at], 0)
            if depth == 0 and arguments[at] == ",":
                break
        return f"if ({arguments[at + 1 :]}) {call}({arguments[:at]}, true);"

    return replaced(r"(gopt_copy_async\d+)\((.*)\);", text)(source)


def one_stage_less(match: re.Match[str]) -> str:
    """The place of a stage among one stage fewer."""
    return f"% {int(match[1] or 4) - 1}) * {match[2]}"


_STAGE = r"(?:& 3|% ([3-9]))\) \* (\d{4,5})"
_SWIZZLE = r"(>> )1(\) & 3\)\) \* 16\))"
_SHIFTED = r"\1\g<2>2\3\4"
_WAIT = r"gopt_copy_wait\(([1-9])\);"

MUTATIONS = (
    Mutation("a loop without its barrier", "matmul", replaced(rf"({_WAIT}\s*)__syncthreads\(\);", r"\1")),
    Mutation(
        "no barrier before the results take the tiles' memory",
        "matmul",
        replaced(r"(gopt_copy_wait\(0\);\s*)__syncthreads\(\);", r"\1"),
    ),
    Mutation("no barrier between writing and reading results", "matmul", replaced(r"__syncwarp\(\);", "", _LAST)),
    Mutation("a wait that leaves one more group", "matmul", replaced(_WAIT, more())),
    Mutation("one stage too few", "matmul", replaced(_STAGE, one_stage_less)),
    Mutation("one stage too few for windows", "convolution", replaced(_STAGE, one_stage_less)),
    Mutation("a loop that ends no group of copies", "matmul", replaced(r"gopt_copy_commit\(\);", "", _LAST)),
    Mutation(
        "a loop that is one step short",
        "matmul",
        replaced(r"; v_\d+ < (\d+); \+\+v_\d+\) \{\s*gopt_copy_wait", more(by=-1)),
    ),
    Mutation("a stage copied from beyond the end", "matmul", replaced(r"if \(v_\d+ < (\d+)\)", more())),
    Mutation(
        "fragments of B in the wrong order",
        "matmul",
        replaced(r"(gopt_mma_f16\(.*)\((v_\d+) \* 2\)\]\)\)\);", r"\1((1 - \2) * 2)])));"),
    ),
    Mutation("A and B swapped", "matmul", replaced(r"(gopt_mma_f16\(.*), (\(&.*\)), (\(&.*\))\);", r"\1, \3, \2);")),
    Mutation(
        "sums of another column",
        "matmul",
        replaced(r"(gopt_mma_f16\(\(&\(_ptr_\d+\[)\((v_\d+) \* 4\)", r"\1((1 - \2) * 4)"),
    ),
    Mutation(
        "rows of ldmatrix from the first half only",
        "matmul",
        replaced(r"(gopt_load_matrix4\(.*?)(?:& 15|% 16)\)", r"\1% 8)", 0),
    ),
    Mutation(
        "another swizzle where A is written",
        "matmul",
        replaced(rf"(gopt_copy_async16\(.*){_SWIZZLE}(.*data_ptr)", _SHIFTED),
    ),
    Mutation(
        "another swizzle where B is read",
        "matmul",
        replaced(rf"(gopt_load_matrix4\(.*){_SWIZZLE}(.*)", _SHIFTED, _LAST),
    ),
    Mutation("rows beyond the matrix are read", "matmul", replaced(r"\(0 <= _ptr_\d+\[v_\d+\]\)", "(bool)1")),
    Mutation("columns beyond the matrix are written", "matmul", replaced(r" < (\d+)\)\) \{", more(), _LAST)),
    Mutation("rows beyond the matrix are written", "matmul", replaced(r" < (\d+)\) && \(\S.*\)\) \{", more(), _LAST)),
    Mutation("elements beyond k are read", "ragged", replaced(r" < (\d+)\) && \(0 <= _ptr", more(by=7))),
    Mutation("no zeros beyond k", "ragged", without_zero_fill),
    Mutation(
        "results in rows that are too long",
        "matmul",
        replaced(r"(output_ptr\[.*threadIdx\.x\) (?:>> 1|/ 2)\) \* )(\d+)\)", more(2), _LAST),
    ),
    Mutation("the bias of the next channel", "convolution", replaced(r"e0_ptr\[", "e0_ptr[1 + ")),
    Mutation(
        "a row of the border is taken from the image",
        "convolution",
        replaced(r"gopt_inside\(([^;{]*?), (9)\)", more(2)),
    ),
    Mutation(
        "results staged at another pitch than they are read",
        "matmul",
        replaced(r"gopt_move8\(.*(?:>> 2|/ 4)\) \* (\d+)\)", more(by=-16)),
    ),
)
