"""x86-64."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.host import host_arch
from graphopt.backends.cpu.platform import CpuPlatform
from graphopt.backends.targets.x86 import caps


class X86(CpuPlatform):
    """``x86``, its levels, and ``x86:<llvm cpu>``."""

    kind = "x86"
    aliases = {"amd64": "x86", "x86_64": "x86", "x64": "x86", "llvm": "x86"}
    linux_triple = "x86_64-linux-gnu"
    machines = frozenset({"x86_64", "amd64"})
    levels = ("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4")
    default_cpu = "native"
    native_name = "x86"
    elsewhere = "x86-64-v3"
    portable_name = "x86-64-v2"
    plainest_cpu = "x86-64"
    cpuinfo_names = caps.CPUINFO_NAMES

    @property
    def described(self) -> Mapping[str, str]:
        """Levels, and this machine if it is one."""
        return {
            "x86": "this machine's processor, all its features" if host_arch() == self.kind else self.elsewhere,
            "x86-64-v2": "any x86 since about 2009: SSE4.2",
            "x86-64-v3": "any x86 since about 2014: AVX2 and FMA",
            "x86-64-v4": "x86 with AVX-512",
        }

    def caps_of(self, cpu: str, features: frozenset[str], *, cores: int, caches: dict[int, int] | None = None) -> Caps:
        """See `caps`."""
        return caps.caps_of(cpu, features, cores=cores, caches=caches)

    def required_features(self, features: frozenset[str]) -> frozenset[str]:
        """See `caps`."""
        return caps.required_features(features)
