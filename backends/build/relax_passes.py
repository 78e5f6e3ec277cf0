"""The Relax passes between ``relax.call_tir`` and the virtual machine's instructions."""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.tvm_api import relax, tvm
from graphopt.backends.build.shape_order import OrderShapeFunctions


def lowering_passes() -> Any:
    """TVM's own passes, without those of its default list that legalise and fuse.

    Its RewriteDataflowReshape rejects PrimFuncs without a root sblock.
    """
    passes = relax.transform
    return tvm.transform.Sequential(
        [
            passes.ToNonDataflow(),
            passes.RemovePurityChecking(),
            passes.CallTIRRewrite(),
            passes.StaticPlanBlockMemory(),
            passes.LowerAllocTensor(),
            passes.KillAfterLastUse(),
            passes.LowerRuntimeBuiltin(),
            passes.ComputePrimValue(),
            passes.VMShapeLower(),
            OrderShapeFunctions(),
            passes.AttachGlobalSymbol(),
        ]
    )
