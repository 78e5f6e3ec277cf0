"""The GPUs that one artefact is for: what follows ``cuda:`` in a target's specification."""

from __future__ import annotations

import re
from collections.abc import Sequence

from graphopt.backends.targets.cuda.caps import known_arches, parse_arch
from graphopt.errors import TargetError, did_you_mean

ALL = "all"
_VIRTUAL = "compute_"
ALL_ARCHES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90")
"""What `ALL` stands for: T4, A100, A10, L4 and H100, and with PTX of the last one whatever comes later."""


def parse_arches(text: str) -> tuple[str, ...]:
    """The architectures of a list such as ``sm_80,sm_90``, the oldest first; ``all`` is `ALL_ARCHES`.

    Raises:
        TargetError: an unknown architecture, none at all, the same one twice, or something that is no GPU among them.
    """
    if text == ALL:
        return ALL_ARCHES
    words = text.split(",")
    if not all(word.strip() for word in words):
        raise TargetError(
            f"the list of architectures in 'cuda:{text}' " + ("has an empty place" if text else "is empty"),
            hint="write cuda:sm_80, a list such as cuda:sm_80,sm_90, or cuda:all",
        )
    found: dict[int, str] = {}
    for word in (word.strip() for word in words):
        sm = parse_arch(word)
        if sm is None:
            raise _unknown(word, words)
        if sm in found:
            twice = f"{word} is there twice" if found[sm] == word else f"{found[sm]} and {word} are for the same GPUs"
            raise TargetError(f"'cuda:{text}': {twice}", hint="leave one of them out")
        found[sm] = word
    return tuple(found[sm] for sm in sorted(found))


def with_ptx(arches: Sequence[str]) -> tuple[str, ...]:
    """What a target for these architectures gets code of: machine code for each and, if they are several, PTX of the newest."""
    return (*arches, f"{_VIRTUAL}{parse_arch(arches[-1])}") if len(arches) > 1 else tuple(arches)


def runs_on(arch: str, sm: int) -> bool:
    """Whether code for an architecture runs on a GPU of compute capability ``sm``.

    Machine code does on the same major version from its own minor version on (CUDA C++ Programming Guide, "Binary Compatibility"),
    with an ``a`` behind the number (``sm_90a``) on exactly that one. PTX becomes machine code for that GPU and all later ones.
    """
    if arch.startswith(_VIRTUAL):
        return sm >= int(arch.removeprefix(_VIRTUAL))
    made_for = parse_arch(arch)
    if made_for is None:
        return False
    return sm == made_for if arch.endswith("a") else sm // 10 == made_for // 10 and sm >= made_for


def listed(arches: Sequence[str]) -> str:
    """For messages: ``sm_80, sm_90 and newer GPUs``."""
    real = [arch for arch in arches if not arch.startswith(_VIRTUAL)]
    return ", ".join(real) + (" and newer GPUs" if len(real) < len(arches) else "")


def _unknown(word: str, words: Sequence[str]) -> TargetError:
    known = known_arches()
    if word == ALL:
        return TargetError("'all' stands for every architecture and goes with no other", hint="write cuda:all")
    if word.startswith("cuda"):
        listed = ",".join(w.strip().removeprefix("cuda:") for w in words)
        return TargetError(f"'cuda:' belongs in front of the whole list, not of {word!r}", hint=f"write cuda:{listed}")
    digits = re.fullmatch(r"(?:sm|compute)?[_-]?(\d+)\.?(\d*)[af]?", word)
    if digits and f"sm_{digits[1]}{digits[2]}" in known:
        hint: str | None = f"did you mean 'sm_{digits[1]}{digits[2]}'?"
    elif re.match(r"(x86|arm|native|cpu|aarch64|llvm)", word):
        hint = (
            "one target is for one kind of device; the processor that launches kernels comes last, as in cuda:sm_80@x86"
        )
    else:
        hint = did_you_mean(word, [*known, ALL])
    return TargetError(f"unknown CUDA architecture {word!r}", hint=hint or f"known: {', '.join(known)}, all")
