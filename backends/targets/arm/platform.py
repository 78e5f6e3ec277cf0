"""ARM with NEON: 64-bit, and 32-bit where a TVM target asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.target import Target
from graphopt.backends.build.processor import KernelFlag
from graphopt.backends.cpu.platform import CpuPlatform
from graphopt.backends.targets.arm import caps, host
from graphopt.backends.targets.arm.features import KERNEL_FLAGS, KERNEL_FLAGS_32

_ARMV7 = {
    "kind": "llvm",
    "mtriple": "armv7a-unknown-linux-gnueabihf",
    "mattr": ["+neon", "+vfp4", "+hwdiv", "+hwdiv-arm"],  # processors with fused multiply-adds divide too
    "mfloat-abi": "hard",
}


class Arm(CpuPlatform):
    """``arm``, ``arm:<llvm cpu>`` and ``armv7``."""

    kind = "arm"
    aliases = {"aarch64": "arm", "arm64": "arm", "armv8": "arm"}
    linux_triple = "aarch64-linux-gnu"
    machines = frozenset({"aarch64", "arm64"})
    other_names = frozenset({"apple-m1", "apple-m2", "apple-m3", "cobalt-100"})
    default_cpu = plainest_cpu = elsewhere = "generic"
    native_name = "arm:native"
    portable_name = "arm"
    llvm_asks_processor = False  # it reads what the system says, and less well
    cpuinfo_names = {llvm: flag.name for llvm, flag in KERNEL_FLAGS.items()}

    @property
    def described(self) -> Mapping[str, str]:
        """Processors that are found in many devices."""
        return {
            "arm": "any 64-bit ARM: ARMv8-A with NEON",
            "arm:cortex-a53": "small cores in order: Raspberry Pi 3 and Zero 2, many boards and TV boxes",
            "arm:cortex-a55": "small cores in order with dot product and fp16: boards, small cores of phones",
            "arm:cortex-a72": "Raspberry Pi 4, AWS Graviton 1",
            "arm:cortex-a76": "ARMv8.2: dot product and fp16 (Raspberry Pi 5, most phones since 2018)",
            "arm:cortex-x1": "fastest cores of phones of 2021",
            "arm:neoverse-n1": "ARM servers: AWS Graviton 2, Ampere Altra",
            "arm:neoverse-v1": "AWS Graviton 3: i8mm and bf16",
            "armv7": "32 bits: ARMv7-A with NEON and VFPv4 (Cortex-A7 and newer), as C libraries only",
            "arm:apple-m1": "Apple M1, under Linux unless compiled on a Mac",
        }

    @property
    def names(self) -> Sequence[str]:
        """``armv7`` too."""
        return (*super().names, "armv7")

    def parse(self, text: str, threads: int | None) -> Target | None:
        """As other CPUs; ``armv7`` is a TVM target with a name."""
        return self.from_tvm(_ARMV7, None, text, threads) if text == "armv7" else super().parse(text, threads)

    def from_tvm(self, config: dict[str, Any], host: Any, name: str, threads: int | None) -> Target | None:
        """Triples of 32 bits with all their parts.

        LLVM takes the second part for a vendor, so of ``armv7a-linux-gnueabihf`` it knows neither system nor ABI. It would call the
        compiler's library by another convention than the library has, and find results in the wrong registers.
        """
        machine, _, rest = str(config.get("mtriple", "")).partition("-")
        if machine.startswith("arm") and machine not in self.machines and rest.startswith("linux-"):
            config = {**config, "mtriple": f"{machine}-unknown-{rest}"}
        return super().from_tvm(config, host, name, threads)

    def has_runtime(self, target: Target) -> bool:
        """TVM's runtime is for 64 bits."""
        return target.arch in self.machines

    def builds_for(self, machine: str) -> bool:
        """32-bit ones too."""
        return machine.startswith(("aarch64", "arm"))

    def caps_of(self, cpu: str, features: frozenset[str], *, cores: int, caches: dict[int, int] | None = None) -> Caps:
        """See `caps`."""
        return caps.caps_of(cpu, features, cores=cores, caches=caches)

    def required_features(self, features: frozenset[str]) -> frozenset[str]:
        """See `caps`."""
        return caps.required_features(features)

    def needed_flags(self, target: Target) -> Sequence[KernelFlag]:
        """By LLVM's names of the features in force; of 32-bit processors by those of theirs."""
        from graphopt.backends.base.tvm_api import llvm_features

        table = KERNEL_FLAGS if target.arch in self.machines else KERNEL_FLAGS_32
        return [flag for name, flag in table.items() if name in llvm_features(target.host)]

    def host_cpu(self) -> str:
        """By implementer and part; where these aren't known, what LLVM finds, which is one of several kinds of cores."""
        return host.this_host().cpu or super().host_cpu()

    def host_flags(self) -> frozenset[str]:
        """What all cores have."""
        return host.this_host().flags

    def host_caches(self) -> dict[int, int]:
        """Of the cores that the code is for."""
        return host.this_host().caches
