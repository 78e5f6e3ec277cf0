"""NVIDIA GPUs through CUDA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.backends.base.host import host_arch
from graphopt.backends.base.runnable import Runnable
from graphopt.backends.base.target import MORE_ARCHES, Target
from graphopt.backends.build.code_generation import Built
from graphopt.backends.cpu.platform import CpuPlatform
from graphopt.backends.cuda.gpu.driver import driver, gpu_at
from graphopt.backends.program.platform import Platform
from graphopt.backends.targets.cuda import caps as cuda_caps
from graphopt.backends.targets.cuda.architectures import ALL, listed, parse_arches, runs_on, with_ptx
from graphopt.errors import TargetError

if TYPE_CHECKING:
    from graphopt.backends.base.accelerator import Accelerator
    from graphopt.backends.base.cost import CostModel
    from graphopt.backends.base.template import KernelTemplate
    from graphopt.backends.build.object_cache import ObjectCache
    from graphopt.backends.tensors.schedule import Schedule


class Cuda(Platform):
    """``cuda``, ``cuda:all``, ``cuda:sm_<NN>[,sm_<NN>]...``, each with an optional ``@`` and the host code's CPU.

    A target for several GPUs is one program with machine code for each: everything but the code is the same, so it keeps to what
    all of them have.

    Args:
        hosts: the CPUs that may launch kernels; the first one stands for machines that are none of them.
    """

    kind: ClassVar[str] = "cuda"
    tvm_kind: ClassVar[str] = "cuda"
    here: ClassVar[str] = "cuda"
    plans_memory: ClassVar[bool] = True
    copies_small_results: ClassVar[bool] = False
    plans_scratch: ClassVar[bool] = True
    shares_memory: ClassVar[bool] = False
    runs_on_pool: ClassVar[bool] = False
    is_synchronous: ClassVar[bool] = False
    multiplies_bytes: ClassVar[bool] = True
    aliases: ClassVar[Mapping[str, str]] = {"gpu": "cuda", "nvidia": "cuda"}

    def __init__(self, hosts: Sequence[CpuPlatform]) -> None:
        self._hosts = hosts

    # -- names --------------------------------------------------------------------------------------------------
    @property
    def names(self) -> Sequence[str]:
        """The kind, all GPUs at once, and all compute capabilities."""
        return ("cuda", f"cuda:{ALL}", *(f"cuda:{arch}" for arch in cuda_caps.known_arches()))

    @property
    def described(self) -> Mapping[str, str]:
        """Generations."""
        return {
            "cuda:sm_75": "NVIDIA Turing (T4)",
            "cuda:sm_80": "NVIDIA Ampere (A100)",
            "cuda:sm_86": "NVIDIA Ampere (RTX 30, A10)",
            "cuda:sm_89": "NVIDIA Ada (RTX 40, L4)",
            "cuda:sm_90": "NVIDIA Hopper (H100)",
            f"cuda:{ALL}": "these five in one file, and GPUs to come",
        }

    def parse(self, text: str, threads: int | None) -> Target | None:
        """The bare name means the GPU that is present. CPU threads don't concern it."""
        device, _, host_spec = text.partition("@")
        if device == "cuda":
            spec = f"sm_{cuda_caps.detect_sm() or cuda_caps.DEFAULT_SM}"
        elif device.startswith("cuda:"):
            spec = device[len("cuda:") :]
        else:
            return None
        arches = parse_arches(spec)
        host = self._host(host_spec or self._home.portable_name)
        if host is None:
            kinds = " or ".join(h.kind for h in self._hosts)
            raise TargetError(f"the host of {text!r} must be an {kinds} target")
        spec = ALL if spec == ALL else ",".join(arches)
        name = f"cuda:{spec}@{host.name}" if host_spec else f"cuda:{spec}"
        caps = cuda_caps.caps_of([sm for arch in arches if (sm := cuda_caps.parse_arch(arch)) is not None])
        config = {
            "kind": self.tvm_kind,
            "arch": arches[0],
            **({MORE_ARCHES: list(with_ptx(arches)[1:])} if arches[1:] else {}),
            "max_num_threads": caps.max_threads_per_block,
            "max_threads_per_block": caps.max_threads_per_block,
            "thread_warp_size": caps.warp,
            "max_shared_memory_per_block": 48 * 1024,
            "registers_per_block": 64 * 1024,
        }
        return Target(name, self.kind, config, host.config, caps)

    def from_tvm(self, config: dict[str, Any], host: Any, name: str, threads: int | None) -> Target | None:
        """A target from a full CUDA target dict."""
        parsed = self.parse(f"cuda:{config['arch']}" if "arch" in config else "cuda", threads)
        assert parsed is not None
        return Target(name, self.kind, {**parsed.config, **config}, host or parsed.host, parsed.caps)

    def with_threads(self, target: Target, threads: int) -> Target:
        """As it is."""
        return target

    @property
    def _home(self) -> CpuPlatform:
        """This machine's own platform."""
        return next((h for h in self._hosts if h.kind == host_arch()), self._hosts[0])

    def _host(self, text: str) -> Target | None:
        return next((found for h in self._hosts if (found := h.parse(text, None)) is not None), None)

    # -- kernels ------------------------------------------------------------------------------------------------
    def templates(self) -> Sequence[KernelTemplate[Any]]:
        """Those of `cuda/templates.py`."""
        from graphopt.backends.cuda.templates import TEMPLATES

        return TEMPLATES

    @cached_property
    def schedule(self) -> Schedule:
        """A thread an element."""
        from graphopt.backends.cuda.nest import CudaSchedule

        return CudaSchedule()

    @cached_property
    def costs(self) -> CostModel:
        """Bytes and operations."""
        from graphopt.backends.cuda.cost.model import CudaCosts

        return CudaCosts()

    # -- code ---------------------------------------------------------------------------------------------------
    def generate(self, mod: Any, target: Target, cache: ObjectCache | None, jobs: int | None) -> Built:
        """CUDA C, of which machine code is made when it is asked for: as a rule for `Built.export`."""
        from graphopt.backends.cuda.code import CudaBuilt

        built = CudaBuilt(target, self, module=mod, cache=cache, jobs=jobs)
        built.generate()
        return built

    def device(self, index: int = 0) -> Any:
        """A GPU."""
        return self.accelerator(index).tvm_device

    def accelerator(self, index: int = 0) -> Accelerator:
        """A GPU through CUDA's runtime, which is loaded if need be."""
        from graphopt.backends.cuda.gpu.accelerator import CudaAccelerator

        return CudaAccelerator(index)

    def require_device(self, index: int) -> None:
        """On a machine with GPUs; one without is the business of `can_run`, as the artefact may be for another one."""
        if (found := driver()) is not None and found.gpus:
            gpu_at(index)

    def use_threads(self, module: Any, target: Target, count: int) -> None:
        """Nothing: the host's code is serial."""

    def can_run(self, target: Target, index: int = 0) -> Runnable:
        """Whether there is such a GPU, and the host's code runs here."""
        here = cuda_caps.detect_sm(index)
        if here is None:
            return Runnable(False, "no CUDA driver or GPU on this machine")
        if not any(runs_on(arch, here) for arch in target.arches):
            return Runnable(False, f"machine code for {listed(target.arches)} doesn't run on this sm_{here} GPU")
        return next((h for h in self._hosts if target.arch in h.machines), self._home).can_run(target)
