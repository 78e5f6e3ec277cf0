"""All that compiling asks of a kind of target, in one object."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.backends.base.target import Target
from graphopt.backends.build.code_generation import CodeGenerator
from graphopt.ir.dtypes import DType

if TYPE_CHECKING:
    from graphopt.backends.base.caps import Caps
    from graphopt.backends.base.cost import CostModel
    from graphopt.backends.base.peaks import PeakKernels
    from graphopt.backends.base.template import KernelTemplate
    from graphopt.backends.tensors.schedule import Schedule
    from graphopt.ir.graph import Node


class Platform(CodeGenerator):
    """A kind of target: its names, its kernels, what they cost, how they become code and how that runs.

    Layers below ask it for facts, never which kind it is. Making one imports no TVM; its methods do where they need to.

    Attributes:
        kind: what `Target.kind` says.
        tvm_kind: ``kind`` of TVM's targets for its kernels.
        plans_memory: the arena of a program is planned here; else TVM allocates each buffer as it runs.
        copies_small_results: small results lie in that arena too, and callers get copies; else callers get all results as kernels
            wrote them, so that nothing waits for the device.
        plans_scratch: memory that kernels need between their launches is part of the arena too.
        shares_memory: kernels and the code around them read the same memory. Kernels may then read a caller's arrays where
            they lie, and compute dimensions that the code around them reads.
        runs_on_pool: parallel loops run on the thread pool of compiled models, which wants to know how long they take.
        is_synchronous: a kernel has finished when its call returns, so that calls can be timed one by one.
        multiplies_bytes: kernels multiply dequantized bytes as the integers that they are, with or without dot products.
        adds_in_float32: element types of 16 bits that are a form of storage: arithmetic is in float32, and sums are.
        aliases: other spellings that people try, with what to write instead.
        described: targets for `list_targets`, with what they are.
    """

    kind: ClassVar[str]
    tvm_kind: ClassVar[str]
    plans_memory: ClassVar[bool]
    copies_small_results: ClassVar[bool]
    plans_scratch: ClassVar[bool] = False
    shares_memory: ClassVar[bool]
    runs_on_pool: ClassVar[bool]
    is_synchronous: ClassVar[bool]
    multiplies_bytes: ClassVar[bool] = False
    adds_in_float32: ClassVar[frozenset[DType]] = frozenset()
    aliases: ClassVar[Mapping[str, str]] = {}

    # -- names --------------------------------------------------------------------------------------------------
    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """Specifications that a message may suggest."""

    @property
    @abstractmethod
    def described(self) -> Mapping[str, str]:
        """Targets to list, with what they are."""

    @abstractmethod
    def parse(self, text: str, threads: int | None) -> Target | None:
        """The target that a specification names; None if it is not one of this kind.

        Args:
            threads: CPU threads to plan for; None for the default.

        Raises:
            TargetError: it is of this kind, and wrong.
        """

    @abstractmethod
    def from_tvm(self, config: dict[str, Any], host: Any, name: str, threads: int | None) -> Target | None:
        """The target of a TVM target dict whose kind is `tvm_kind`; None if its machine is not of this kind.

        Args:
            config: the dict without its host; its own choices (``mattr``, ...) are kept as they are.
            host: TVM target of the code around the kernels, as dict; None for the default.
            name: for the target.
        """

    @abstractmethod
    def with_threads(self, target: Target, threads: int) -> Target:
        """The target planned for so many CPU threads."""

    # -- kernels ------------------------------------------------------------------------------------------------
    @abstractmethod
    def templates(self) -> Sequence[KernelTemplate[Any]]:
        """Kernel templates, in no particular order; each says itself what calls it can compute."""

    @property
    @abstractmethod
    def schedule(self) -> Schedule:
        """How kernels run that no template computes."""

    @property
    @abstractmethod
    def costs(self) -> CostModel:
        """What takes how long."""

    def factors(self, node: Node, dtype: DType, caps: Caps) -> Collection[int]:
        """Operands of a node that kernels multiply as they are stored, if they are stored in ``dtype``: rounding them pays."""
        return ()

    def peak_kernels(self) -> PeakKernels | None:
        """Kernels that do nothing but reach the hardware's limits; None where they can't be timed."""
        return None
