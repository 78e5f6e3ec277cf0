"""Specifications of targets, as people write them: ``"x86"``, ``"arm:cortex-a76"``, ``"cuda:sm_80"`` and others.

Grammar::

    native                          this machine's processor
    x86 | x86-64-v2 | x86-64-v3 | x86-64-v4 | x86:<llvm cpu>[,+feature|,-feature]...
    arm | arm:<llvm cpu>[,+feature|,-feature]... | armv7
    cuda | cuda:all | cuda:sm_<NN>[,sm_<NN>]...
                                    each with an optional @<x86 or arm specification> for the host code
    {"kind": "llvm", ...}           a full TVM target as JSON text or dict

Each platform reads its own; what they share is here.
"""

from __future__ import annotations

import json
from typing import Any

from graphopt.backends.base.host import host_arch
from graphopt.backends.base.target import Target, checked_threads
from graphopt.backends.targets.platforms import CPUS, PLATFORMS, platform_of
from graphopt.errors import TargetError, did_you_mean

_ALIASES = {"cpu": "native", "host": "native", **{a: b for p in PLATFORMS.values() for a, b in p.aliases.items()}}


def parse_target(spec: str | dict[str, Any] | Target, threads: int | None = None) -> Target:
    """Parse a target specification (grammar in the module's docstring).

    Args:
        spec: specification, TVM target dict, or a target, which is returned as it is but for ``threads``.
        threads: how many CPU threads to plan for; by default all CPUs of this process's affinity mask when the code
            is for this architecture, else 4. Doesn't concern the GPU.

    Raises:
        TargetError: unknown or malformed; the hint names the closest known one.
    """
    threads = checked_threads(threads)
    if isinstance(spec, Target):
        return spec if threads is None else platform_of(spec).with_threads(spec, threads)
    if isinstance(spec, dict):
        return _from_tvm(spec, threads)
    text = spec.strip()
    if text.startswith("{"):
        try:
            config = json.loads(text)
        except ValueError as error:
            raise TargetError(f"target is not valid JSON: {error}") from error
        return _from_tvm(config, threads)
    for platform in PLATFORMS.values():
        found = platform.parse(text, threads)
        if found is not None:
            return found
    known = ("native", *(name for platform in PLATFORMS.values() for name in platform.names))
    alias = _ALIASES.get(text.lower())
    hint = f"did you mean {alias!r}?" if alias else did_you_mean(text, known)
    raise TargetError(
        f"unknown target {text!r}",
        hint=hint or "'graphopt targets' lists them; examples: x86, x86-64-v3, x86:znver3, arm:cortex-a76, cuda:sm_80",
    )


def _from_tvm(config: dict[str, Any], threads: int | None) -> Target:
    """A target from a full TVM target dict, whose own choices (``mattr``, ...) are kept as they are."""
    config = dict(config)
    host = config.pop("host", None)
    name = json.dumps(config if host is None else {**config, "host": host}, sort_keys=True)
    kinds = list(dict.fromkeys(platform.tvm_kind for platform in PLATFORMS.values()))
    tvm_kind = config.get("kind")
    if tvm_kind not in kinds:
        raise TargetError(f"TVM target kind {tvm_kind!r} isn't supported", hint=f"kinds: {', '.join(kinds)}")
    _require_accepted(config, host)
    home = next((cpu for cpu in CPUS if cpu.kind == host_arch()), CPUS[0])
    for platform in (home, *PLATFORMS.values()):  # a target that names no machine is for this one
        if platform.tvm_kind == tvm_kind:
            found = platform.from_tvm(config, host, name, threads)
            if found is not None:
                return found
    machine = str(config["mtriple"]).split("-")[0]
    raise TargetError(f"no code for machine {machine!r}", hint="x86_64, aarch64 and armv7a triples work")


def _require_accepted(config: dict[str, Any], host: Any) -> None:
    from graphopt.backends.base.tvm_api import tvm

    try:
        tvm.target.Target(config, host=host)
    except (ValueError, TypeError, tvm.error.InternalError) as error:
        raise TargetError(f"TVM refuses the target: {str(error).splitlines()[0]}") from error
