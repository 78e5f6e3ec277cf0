"""The compilation target: what `parse_target` makes of ``"x86"``, ``"arm:cortex-a76"``, ``"cuda:sm_80"`` and others.

Grammar of a specification::

    native                          this machine's processor
    x86 | x86-64-v2 | x86-64-v3 | x86-64-v4 | x86:<llvm cpu>[,+feature|,-feature]...
    arm | arm:<llvm cpu>[,+feature|,-feature]...
    cuda | cuda:sm_<NN>             each with an optional @<x86 or arm specification> for the host code
    {"kind": "llvm", ...}           a full TVM target as JSON text or dict
"""

from __future__ import annotations

import json
import operator
import platform
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, cast

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.host import cpuinfo_flags, default_threads, host_arch, host_caches
from graphopt.backends.targets.arm import caps as arm_caps
from graphopt.backends.targets.cuda import caps as cuda_caps
from graphopt.backends.targets.x86 import caps as x86_caps
from graphopt.errors import TargetError, did_you_mean

Kind = Literal["x86", "arm", "cuda"]

_LEVELS = ("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4")
_CUDA_DEFAULT_HOST = {"x86": "x86-64-v2", "arm": "arm"}
_CROSS_CORES = 4
_ALIASES = {
    "aarch64": "arm",
    "arm64": "arm",
    "armv8": "arm",
    "amd64": "x86",
    "x86_64": "x86",
    "x64": "x86",
    "cpu": "native",
    "host": "native",
    "llvm": "x86",
    "gpu": "cuda",
    "nvidia": "cuda",
}
_TRIPLES = {"x86": "x86_64-linux-gnu", "arm": "aarch64-linux-gnu"}


@dataclass(frozen=True)
class Target:
    """One thing to generate code for.

    Attributes:
        name: canonical specification; `parse_target` takes it back. ``"x86"`` stands for the processor it was parsed
            on, so compare `config` to compare targets.
        kind: architecture of the kernels.
        config: TVM target of the kernels, as TVM's JSON dict.
        host: TVM target of the code around the kernels; equal to ``config`` for CPUs.
        caps: what kernels may know.
    """

    name: str
    kind: Kind
    config: dict[str, Any] = field(hash=False)
    host: dict[str, Any] = field(hash=False)
    caps: Caps

    def __str__(self) -> str:
        return self.name

    def tvm_target(self) -> Any:
        """The ``tvm.target.Target``, with its host (imports TVM)."""
        from graphopt.backends.base.tvm_api import tvm

        return tvm.target.Target(self.config, host=tvm.target.Target(self.host))

    @property
    def arch(self) -> str:
        """Machine that loads the library: ``x86_64``, ``aarch64``, ``armv7a``, ... (from the host triple)."""
        return self.triple.split("-")[0]

    @property
    def triple(self) -> str:
        """LLVM triple of the host: its machine and system."""
        return str(self.host["mtriple"])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form for manifests; `from_dict` reverses it exactly, on any machine."""
        return {
            "name": self.name,
            "kind": self.kind,
            "config": self.config,
            "host": self.host,
            "caps": asdict(self.caps),
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Target:
        """The target that `to_dict` described.

        Raises:
            TargetError: a field is missing or unknown.
        """
        try:
            return Target(data["name"], data["kind"], data["config"], data["host"], Caps(**data["caps"]))
        except (KeyError, TypeError) as error:
            raise TargetError(f"not a target description: {error}") from error


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
        target = spec
        if threads is None or target.caps.is_gpu:
            return target
        return replace(target, caps=replace(target.caps, cores=threads))
    if isinstance(spec, dict):
        return _from_tvm_config(spec, threads)
    text = spec.strip()
    if text.startswith("{"):
        try:
            config = json.loads(text)
        except ValueError as error:
            raise TargetError(f"target is not valid JSON: {error}") from error
        return _from_tvm_config(config, threads)
    if text == "native":
        text = host_arch() if host_arch() == "x86" else f"{host_arch()}:native"
    head, _, rest = text.partition(":")
    if head.startswith("cuda"):
        return _cuda(text)
    base = head.partition(",")[0]
    if base in _LEVELS:
        return _cpu("x86", text, threads, text)
    if base in ("x86", "arm"):
        if ":" in text:
            return _cpu(cast(Kind, base), rest, threads, text)
        return _cpu(cast(Kind, base), ("native" if base == "x86" else "generic") + text[len(base) :], threads, text)
    raise _unknown(text)


def checked_threads(threads: object) -> int | None:
    """A number of threads that a caller has given, or None for the default.

    Raises:
        TargetError: it is no whole number, or less than 1.
    """
    if threads is None:
        return None
    hint = "leave it out for the default"
    try:
        if isinstance(threads, bool):
            raise TypeError("a truth value is no number")
        count = operator.index(threads)  # type: ignore[arg-type]  # what is no number raises
    except TypeError as error:
        raise TargetError(f"threads must be a whole number, not {threads!r:.60}", hint=hint) from error
    if count < 1:
        raise TargetError(f"threads must be at least 1, not {count}", hint=hint)
    return count


def _unknown(text: str) -> TargetError:
    known = ("native", "x86", *_LEVELS, "arm", "cuda", *(f"cuda:{arch}" for arch in cuda_caps.known_arches()))
    alias = _ALIASES.get(text.lower())
    hint = f"did you mean {alias!r}?" if alias else did_you_mean(text, known)
    return TargetError(
        f"unknown target {text!r}",
        hint=hint or "'graphopt targets' lists them; examples: x86, x86-64-v3, x86:znver3, arm:cortex-a76, cuda:sm_80",
    )


def _triple(arch: str) -> str:
    """LLVM triple to build ``arch`` for: this system's own when that is the machine, else Linux."""
    if arch == host_arch() and platform.system() != "Linux":
        from graphopt.backends.base.tvm_api import llvm_host

        return llvm_host()[0]
    return _TRIPLES[arch]


def _cpu(kind: Kind, body: str, threads: int | None, name: str) -> Target:
    """A CPU target from ``<llvm cpu>[,+feature|,-feature]...``."""
    from graphopt.backends.base.tvm_api import llvm_cpu_names, llvm_features

    cpu, *edits = body.split(",")
    for edit in edits:
        if len(edit) < 2 or edit[0] not in "+-":
            raise TargetError(f"feature {edit!r} in target {name!r} lacks its sign", hint="write +feature or -feature")
    triple = _triple(kind)
    caches = None
    if cpu == "native":
        if kind != host_arch():
            if name != kind:
                raise TargetError(f"target {name!r} means this machine's processor, which is no {kind}")
            cpu = name = "x86-64-v3"
        else:
            cpu, native_edits = _native(kind, triple)
            edits, caches = [*native_edits, *edits], host_caches()
    elif cpu not in llvm_cpu_names(triple):
        raise TargetError(
            f"LLVM knows no {kind} processor {cpu!r}",
            hint=did_you_mean(cpu, llvm_cpu_names(triple)) or f"use {kind!r} for the default",
        )
    config: dict[str, Any] = {"kind": "llvm", "mtriple": triple, "mcpu": cpu}
    if edits:
        config["mattr"] = edits
    features = llvm_features(config)
    _check_edits(edits, features, kind, name)
    caps = _cpu_caps(kind, cpu, features, threads, caches)
    if caps.vector_bits == 512:
        # LLVM would otherwise split 512-bit vectors in two on Intel parts, whose early AVX-512 lowered the clock.
        config["mattr"] = [*edits, "-prefer-256-bit"]
    return Target(name, kind, config, config, caps)


def _check_edits(edits: list[str], features: frozenset[str], kind: str, name: str) -> None:
    """LLVM silently drops a feature it doesn't know: what was asked for must be in force."""
    last_sign = {edit[1:]: edit[0] for edit in edits}
    wanted = {feature for feature, sign in last_sign.items() if sign == "+"}
    for feature in sorted(wanted - features):
        raise TargetError(
            f"LLVM knows no {kind} feature {feature!r} (target {name!r})",
            hint=did_you_mean(feature, features | set(arm_caps.CPUINFO_NAMES) | set(x86_caps.CPUINFO_NAMES)),
        )


def _cpu_caps(
    kind: Kind, cpu: str, features: frozenset[str], threads: int | None, caches: dict[int, int] | None
) -> Caps:
    cores = threads or (default_threads() if kind == host_arch() else _CROSS_CORES)
    caps_of = x86_caps.caps_of if kind == "x86" else arm_caps.caps_of
    return caps_of(cpu, features, cores=cores, caches=caches)


def host_features(kind: str) -> dict[str, bool]:
    """Presence on this machine of each LLVM feature that generated code may use; empty for another architecture."""
    from graphopt.backends.base.tvm_api import llvm_host

    if kind != host_arch():
        return {}
    _, _, table = llvm_host()
    names = x86_caps.CPUINFO_NAMES if kind == "x86" else arm_caps.CPUINFO_NAMES
    flags = cpuinfo_flags()
    from_kernel = {llvm: linux in flags for llvm, linux in names.items()} if flags else {}
    return {**from_kernel, **table}


def _native(kind: Kind, triple: str) -> tuple[str, list[str]]:
    """LLVM CPU name of this machine and the features to switch so that it is exactly this machine.

    A virtual machine often hides features of the processor whose name it reports; code for the bare name would then
    stop with an illegal instruction.
    """
    from graphopt.backends.base.tvm_api import llvm_cpu_names, llvm_features, llvm_host

    _, cpu, _ = llvm_host()
    if cpu not in llvm_cpu_names(triple):
        cpu = "x86-64" if kind == "x86" else "generic"
    named = llvm_features({"kind": "llvm", "mtriple": triple, "mcpu": cpu})
    present = host_features(kind)
    required = x86_caps.required_features if kind == "x86" else arm_caps.required_features
    off = sorted(name for name in named if present.get(name) is False)
    on = sorted(required(frozenset(name for name, here in present.items() if here)) - named)
    return cpu, [f"-{name}" for name in off] + [f"+{name}" for name in on]


def _cuda(text: str) -> Target:
    device, _, host_spec = text.partition("@")
    if device == "cuda":
        arch = f"sm_{cuda_caps.detect_sm() or cuda_caps.DEFAULT_SM}"
    elif device.startswith("cuda:"):
        arch = device[len("cuda:") :]
    else:
        raise _unknown(text)
    sm = cuda_caps.parse_arch(arch)
    if sm is None:
        raise TargetError(
            f"unknown CUDA architecture {arch!r}",
            hint=did_you_mean(arch, cuda_caps.known_arches()) or f"known: {', '.join(cuda_caps.known_arches())}",
        )
    host = parse_target(host_spec or _CUDA_DEFAULT_HOST.get(host_arch(), "x86-64-v2"))
    if host.kind == "cuda":
        raise TargetError(f"the host of {text!r} must be an x86 or arm target")
    name = f"cuda:{arch}@{host.name}" if host_spec else f"cuda:{arch}"
    caps = cuda_caps.caps_of(sm)
    config = {
        "kind": "cuda",
        "arch": arch,
        "max_num_threads": caps.max_threads_per_block,
        "max_threads_per_block": caps.max_threads_per_block,
        "thread_warp_size": caps.warp,
        "max_shared_memory_per_block": 48 * 1024,
        "registers_per_block": 64 * 1024,
    }
    return Target(name, "cuda", config, host.config, caps)


def _from_tvm_config(config: dict[str, Any], threads: int | None) -> Target:
    """A target from a full TVM target dict, whose own choices (``mattr``, ...) are kept as they are."""
    from graphopt.backends.base.tvm_api import llvm_features, tvm

    config = dict(config)
    host = config.pop("host", None)
    name = json.dumps(config if host is None else {**config, "host": host}, sort_keys=True)
    tvm_kind = config.get("kind")
    if tvm_kind in ("llvm", "cuda"):
        try:
            tvm.target.Target(config, host=host)
        except (ValueError, TypeError, tvm.error.InternalError) as error:
            raise TargetError(f"TVM refuses the target: {str(error).splitlines()[0]}") from error
    if tvm_kind == "cuda":
        cuda = _cuda(f"cuda:{config['arch']}" if "arch" in config else "cuda")
        parsed = Target(name, "cuda", {**cuda.config, **config}, host or cuda.host, cuda.caps)
    elif tvm_kind == "llvm":
        config.setdefault("mtriple", _triple("x86" if host_arch() != "arm" else "arm"))
        arch = str(config["mtriple"]).split("-")[0]
        kind: Kind = "arm" if arch.startswith(("aarch64", "arm")) else "x86"
        if kind == "x86" and arch not in ("x86_64", "amd64"):
            raise TargetError(f"no code for machine {arch!r}", hint="x86_64, aarch64 and armv7a triples work")
        caps = _cpu_caps(kind, str(config.get("mcpu", "generic")), llvm_features(config), threads, None)
        parsed = Target(name, kind, config, config, caps)
    else:
        raise TargetError(f"TVM target kind {tvm_kind!r} isn't supported", hint="kinds: llvm, cuda")
    return parsed
