"""What targets that are CPUs have in common; each adds its processors' names and features."""

from __future__ import annotations

import platform
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.host import cpuinfo_flags, default_threads, host_arch, host_caches
from graphopt.backends.base.runnable import Runnable
from graphopt.backends.base.target import Target
from graphopt.backends.build.code_generation import Built
from graphopt.backends.build.link import is_for_macos
from graphopt.backends.program.platform import Platform
from graphopt.errors import CompileError, TargetError, did_you_mean
from graphopt.ir.dtypes import DType

if TYPE_CHECKING:
    from graphopt.backends.base.cost import CostModel
    from graphopt.backends.base.peaks import PeakKernels
    from graphopt.backends.base.template import KernelTemplate
    from graphopt.backends.build.object_cache import ObjectCache
    from graphopt.backends.tensors.schedule import Schedule
    from graphopt.ir.graph import Node

_CROSS_CORES = 4
"""Cores of a machine that isn't this one, for all that is known."""


class CpuPlatform(Platform):
    """LLVM makes the code; the kernels are shared by all CPUs and choose by `Caps`.

    Attributes:
        linux_triple: LLVM's triple to build for where nothing else is said.
        machines: names of the machine in a triple that this process could load code of, where it is of this kind.
        other_names: LLVM's second names of processors, which it takes but doesn't list.
        levels: LLVM processors that are targets by their name alone, besides ``<kind>:<llvm cpu>``.
        default_cpu: what the bare name of the kind means: an LLVM processor, or ``native``.
        native_name: specification of this machine's processor.
        elsewhere: processor that the bare name means on a machine of another kind.
        portable_name: what code that has to run on any such machine is built for.
        plainest_cpu: LLVM's name for a processor of which nothing is known.
        cpuinfo_names: LLVM's name of a feature that generated code uses, to the kernel's name of it in ``/proc/cpuinfo``.
        llvm_asks_processor: LLVM's table of this machine's features comes from the processor, and says more than the system does.
    """

    tvm_kind: ClassVar[str] = "llvm"
    plans_memory: ClassVar[bool] = True
    copies_small_results: ClassVar[bool] = True
    shares_memory: ClassVar[bool] = True
    runs_on_pool: ClassVar[bool] = True
    is_synchronous: ClassVar[bool] = True
    multiplies_bytes: ClassVar[bool] = True
    adds_in_float32: ClassVar[frozenset[DType]] = frozenset({DType.f16, DType.bf16})

    linux_triple: ClassVar[str]
    machines: ClassVar[frozenset[str]]
    other_names: ClassVar[frozenset[str]] = frozenset()
    levels: ClassVar[tuple[str, ...]] = ()
    default_cpu: ClassVar[str]
    native_name: ClassVar[str]
    elsewhere: ClassVar[str]
    portable_name: ClassVar[str]
    plainest_cpu: ClassVar[str]
    cpuinfo_names: ClassVar[Mapping[str, str]]
    llvm_asks_processor: ClassVar[bool] = True

    @abstractmethod
    def caps_of(self, cpu: str, features: frozenset[str], *, cores: int, caches: dict[int, int] | None = None) -> Caps:
        """Capabilities of a processor.

        Args:
            cpu: LLVM CPU name, used only for typical cache sizes.
            features: LLVM features in force.
            cores: threads to plan for.
            caches: measured sizes in bytes by level, which win over the typical ones.
        """

    @abstractmethod
    def required_features(self, features: frozenset[str]) -> frozenset[str]:
        """The part of ``features`` without which generated code would stop with an illegal instruction."""

    def builds_for(self, machine: str) -> bool:
        """Whether a triple of that machine is of this kind."""
        return machine in self.machines

    # -- kernels ------------------------------------------------------------------------------------------------
    def templates(self) -> Sequence[KernelTemplate[Any]]:
        """Those of all CPUs."""
        from graphopt.backends.cpu.templates import TEMPLATES

        return TEMPLATES

    @cached_property
    def schedule(self) -> Schedule:
        """Parallel outer loops, vectors inside."""
        from graphopt.backends.cpu.nest import CpuSchedule

        return CpuSchedule()

    @cached_property
    def costs(self) -> CostModel:
        """Cycles of a core at a nominal clock."""
        from graphopt.backends.cpu.cost.model import CpuCosts

        return CpuCosts()

    def factors(self, node: Node, dtype: DType, caps: Caps) -> Collection[int]:
        """Those of products for which there is a dot product."""
        from graphopt.backends.specs.dot_products import factors

        return factors(node, dtype, caps)

    def peak_kernels(self) -> PeakKernels:
        """Multiply-adds in registers and streams."""
        from graphopt.backends.cpu.peaks import CpuPeaks

        return CpuPeaks(self)

    # -- code ---------------------------------------------------------------------------------------------------
    def generate(self, mod: Any, target: Target, cache: ObjectCache | None, jobs: int | None) -> Built:
        """Kernel by kernel, where there is a linker; else in one piece."""
        from graphopt.backends.build.object_build import build_objects
        from graphopt.backends.build.whole_module import BuiltWhole, whole_module

        if _has_linker(target):
            built = build_objects(mod, target, self, cache, jobs)
            if built is not None:
                return built
        return BuiltWhole(target, self, executable=whole_module(mod, target))

    def device(self, index: int = 0) -> Any:
        """TVM's CPU."""
        from graphopt.backends.base.tvm_runtime import tvm

        return tvm.cpu()

    def use_threads(self, module: Any, target: Target, count: int) -> None:
        """Of the pool in the library; of TVM's where it has none."""
        from graphopt.backends.build.pool import has_pool
        from graphopt.backends.build.tvm_threads import set_threads

        if has_pool(target.triple):
            module.get_function("graphopt_set_threads", query_imports=True)(count)
        else:
            set_threads(count)

    def can_run(self, target: Target, index: int = 0) -> Runnable:
        """Whether this is such a machine and has the features; asks for nothing but the host's code."""
        if self.kind != host_arch() or target.arch not in self.machines:
            return Runnable(False, f"the code is for {target.arch}, this machine is {platform.machine()}")
        if is_for_macos(target.triple) != (platform.system() == "Darwin"):
            system = "macOS" if is_for_macos(target.triple) else "Linux"
            return Runnable(False, f"the code is for {system}, this system is {platform.system()}")
        from graphopt.backends.base.tvm_runtime import has_compiler

        if not has_compiler():  # nobody here knows what features a processor's name stands for
            return Runnable(True)
        from graphopt.backends.base.tvm_api import llvm_features

        present = self.host_features()
        required = self.required_features(llvm_features(target.host))
        missing = sorted(name for name in required if present.get(name) is False)
        if missing:
            return Runnable(False, f"this processor lacks {', '.join(missing)}")
        return Runnable(True)

    def needed_names(self, target: Target) -> Sequence[str]:
        """Of the required features those that have such names."""
        from graphopt.backends.base.tvm_api import llvm_features

        required = self.required_features(llvm_features(target.host))
        return sorted({self.cpuinfo_names[name] for name in required & self.cpuinfo_names.keys()})

    def missing_names(self, needed: Collection[str]) -> list[str]:
        """By the flags of this machine; none where it shows no flags."""
        flags = self.host_flags()
        return sorted(set(needed) - flags) if flags else []

    def host_features(self) -> dict[str, bool]:
        """Presence on this machine of each LLVM feature that generated code may use; empty for another architecture."""
        from graphopt.backends.base.tvm_api import llvm_host

        if self.kind != host_arch():
            return {}
        _, _, table = llvm_host()
        flags = self.host_flags()
        from_kernel = {llvm: linux in flags for llvm, linux in self.cpuinfo_names.items()} if flags else {}
        return {**from_kernel, **table} if self.llvm_asks_processor else {**table, **from_kernel}

    def host_cpu(self) -> str:
        """LLVM's name of this machine's processor."""
        from graphopt.backends.base.tvm_api import llvm_host

        return llvm_host()[1]

    def host_flags(self) -> frozenset[str]:
        """The operating system's names of this machine's features; empty where it doesn't tell."""
        return cpuinfo_flags()

    def host_caches(self) -> dict[int, int]:
        """Sizes in bytes by level, as far as the system tells."""
        return host_caches()

    # -- names --------------------------------------------------------------------------------------------------
    @property
    def names(self) -> Sequence[str]:
        """The kind and its levels."""
        return (self.kind, *self.levels)

    def parse(self, text: str, threads: int | None) -> Target | None:
        """``<kind>``, ``<level>`` or ``<kind>:<llvm cpu>``, each with ``,+feature`` and ``,-feature``; ``native``."""
        if text == "native" and self.kind == host_arch():
            text = self.native_name
        head, colon, rest = text.partition(":")
        base = head.partition(",")[0]
        if base in self.levels:
            return self._target(text, threads, text)
        if base != self.kind:
            return None
        return self._target(rest if colon else self.default_cpu + text[len(base) :], threads, text)

    def from_tvm(self, config: dict[str, Any], host: Any, name: str, threads: int | None) -> Target | None:
        """A target from a full LLVM target dict."""
        from graphopt.backends.base.tvm_api import llvm_features

        config = {"mtriple": self.triple(), **config}
        if not self.builds_for(str(config["mtriple"]).split("-")[0]):
            return None
        caps = self._caps(str(config.get("mcpu", "generic")), llvm_features(config), threads, None)
        return Target(name, self.kind, config, config, caps)

    def with_threads(self, target: Target, threads: int) -> Target:
        """As many cores."""
        return replace(target, caps=replace(target.caps, cores=threads))

    def triple(self) -> str:
        """LLVM triple to build for: this system's own when the machine is of this kind, else Linux."""
        if self.kind == host_arch() and platform.system() != "Linux":
            from graphopt.backends.base.tvm_api import llvm_host

            return llvm_host()[0]
        return self.linux_triple

    def _target(self, body: str, threads: int | None, name: str) -> Target:
        """A target from ``<llvm cpu>[,+feature|,-feature]...``."""
        from graphopt.backends.base.tvm_api import llvm_features

        cpu, *edits = body.split(",")
        for edit in edits:
            if len(edit) < 2 or edit[0] not in "+-":
                raise TargetError(
                    f"feature {edit!r} in target {name!r} lacks its sign", hint="write +feature or -feature"
                )
        triple = self.triple()
        caches = None
        if cpu == "native":
            if self.kind != host_arch():
                if name != self.kind:
                    raise TargetError(
                        f"target {name!r} means this machine's processor, which is no {self.kind}",
                        hint=f"name a processor ('graphopt targets' lists some), or {self.portable_name!r} for any",
                    )
                cpu = name = self.elsewhere
            else:
                cpu, native_edits = self._native(triple)
                edits, caches = [*native_edits, *edits], self.host_caches()
        elif cpu not in (known := self._processors(triple)):
            raise TargetError(
                f"LLVM knows no {self.kind} processor {cpu!r}",
                hint=did_you_mean(cpu, known) or f"use {self.kind!r} for the default",
            )
        config: dict[str, Any] = {"kind": self.tvm_kind, "mtriple": triple, "mcpu": cpu}
        if edits:
            config["mattr"] = edits
        features = llvm_features(config)
        self._check_edits(edits, features, name)
        caps = self._caps(cpu, features, threads, caches)
        if caps.vector_bits == 512:
            # LLVM would otherwise split 512-bit vectors in two on Intel parts, whose early AVX-512 lowered the clock.
            config["mattr"] = [*edits, "-prefer-256-bit"]
        return Target(name, self.kind, config, config, caps)

    def _processors(self, triple: str) -> frozenset[str]:
        """Names of processors that LLVM takes."""
        from graphopt.backends.base.tvm_api import llvm_cpu_names

        return llvm_cpu_names(triple) | self.other_names

    def _check_edits(self, edits: list[str], features: frozenset[str], name: str) -> None:
        """LLVM silently drops a feature it doesn't know: what was asked for must be in force."""
        last_sign = {edit[1:]: edit[0] for edit in edits}
        wanted = {feature for feature, sign in last_sign.items() if sign == "+"}
        for feature in sorted(wanted - features):
            raise TargetError(
                f"LLVM knows no {self.kind} feature {feature!r} (target {name!r})",
                hint=did_you_mean(feature, features | set(self.cpuinfo_names)),
            )

    def _caps(self, cpu: str, features: frozenset[str], threads: int | None, caches: dict[int, int] | None) -> Caps:
        cores = threads or (default_threads() if self.kind == host_arch() else _CROSS_CORES)
        return self.caps_of(cpu, features, cores=cores, caches=caches)

    def _native(self, triple: str) -> tuple[str, list[str]]:
        """LLVM CPU name of this machine and the features to switch so that it is exactly this machine.

        A virtual machine often hides features of the processor whose name it reports; code for the bare name would then
        stop with an illegal instruction.
        """
        from graphopt.backends.base.tvm_api import llvm_features

        cpu = self.host_cpu()
        if cpu not in self._processors(triple):
            cpu = self.plainest_cpu
        named = llvm_features({"kind": self.tvm_kind, "mtriple": triple, "mcpu": cpu})
        present = self.host_features()
        off = sorted(name for name in named if present.get(name) is False)
        on = sorted(self.required_features(frozenset(name for name, here in present.items() if here)) - named)
        return cpu, [f"-{name}" for name in off] + [f"+{name}" for name in on]


def _has_linker(target: Target) -> bool:
    from graphopt.backends.build.link import find_linker

    try:
        find_linker(target)
    except CompileError:
        return False
    return True
