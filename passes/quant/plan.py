"""What quantization will write: the integers of every value, weight and bias, once ranges are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.errors import UserError
from graphopt.ir.graph import Array, Node, Value
from graphopt.ops.registry import BIAS, has_trait
from graphopt.passes.quant.parameters import IntegerForm, Parameters, parameters_of
from graphopt.passes.quant.placement import Placement, onward, seen_of
from graphopt.passes.quant.ranges import Range
from graphopt.passes.quant.roles import data_operands, is_float32
from graphopt.passes.quant.weights import (
    bias_vector,
    by_output_channel,
    channel_axis_of,
    least_weight_scale,
    quantized_bias,
    weight_parameters,
)


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A weight in integers.

    Attributes:
        value: the float weight.
        axis: with a scale for each index; None for one scale.
        parameters: scales and zero points.
        raised: how many scales were raised for a bias to fit.
    """

    value: Value
    axis: int | None
    parameters: Parameters
    raised: int = 0


@dataclass(frozen=True, eq=False)
class StoredBias:
    """A bias as int32, with zero point 0.

    Attributes:
        integers: one for each output channel.
        scale: of the products that it is added to.
    """

    integers: Array
    scale: Array


@dataclass
class QuantPlan:
    """Everything that is to be stored.

    Attributes:
        placement: which nodes and values.
        ranges: of the values in groups.
        values: scale and zero point of every value in a group; those of one group are one object.
        weights: by product; products of one weight share one object.
        biases: by product.
    """

    placement: Placement
    ranges: dict[Value, Range] = field(default_factory=dict)
    values: dict[Value, Parameters] = field(default_factory=dict)
    weights: dict[Node, StoredWeight] = field(default_factory=dict)
    biases: dict[Node, StoredBias] = field(default_factory=dict)


def calibrated_values(placement: Placement) -> list[Value]:
    """Values whose ranges decide the scales, in order; constants tell theirs themselves."""
    seen = (seen_of(placement, value) for group in placement.groups for value in group)
    return [value for value in dict.fromkeys(seen) if not value.is_const]


def possible_values(placement: Placement) -> list[Value]:
    """``calibrated_values`` of this placement and of any with more left in float, which may stop values from being one with
    what follows them."""
    operands = (
        node.input(i)
        for node, role in placement.roles.items()
        for i in data_operands(node, role)
        if i != placement.weights.get(node)
    )
    found = dict.fromkeys(v for value in operands if is_float32(value) and value for v in onward(placement, value))
    return [value for value in found if not value.is_const]


def plan_quantization(
    placement: Placement,
    ranges: Mapping[str, Range],
    activations: IntegerForm,
    weights: IntegerForm,
    *,
    per_channel: bool = True,
    forms: Mapping[str, IntegerForm] | None = None,
    per_channel_of: Mapping[str, bool] | None = None,
    wide_ranges: Mapping[str, Range] | None = None,
) -> QuantPlan:
    """Scales and zero points for a placement.

    Args:
        ranges: by name, of ``calibrated_values``.
        activations, weights: how they are stored; weights symmetric.
        per_channel: a scale for each output channel of a weight.
        forms: by the name of a value, how it is stored instead; of a group's the one of the most bits.
        per_channel_of: by the name of a node, ``per_channel`` for its weight.
        wide_ranges: those for values in 16 bits, where they are others than in 8.

    Raises:
        UserError: a weight or constant isn't finite.
        KeyError: a range is missing.
    """
    plan = QuantPlan(placement)
    for group in placement.groups:
        seen = dict.fromkeys(seen_of(placement, value) for value in group)
        form = form_of_group(group, forms or {}, activations)
        chosen = {**ranges, **wide_ranges} if wide_ranges and form.dtype.bits > 8 else ranges
        found = [_constant_range(v) if v.is_const else chosen[v.name] for v in seen]
        shared = found[0]
        for other in found[1:]:
            shared = shared.with_other(other)
        parameters = parameters_of(shared.low, shared.high, form)
        for value in group:
            plan.values[value], plan.ranges[value] = parameters, shared
    _store_weights(plan, weights, per_channel, per_channel_of or {})
    return plan


def form_of_group(group: Sequence[Value], forms: Mapping[str, IntegerForm], otherwise: IntegerForm) -> IntegerForm:
    """How the values of a group are stored: in the form of the most bits that one of them is to have."""
    named = [forms[value.name] for value in group if value.name in forms]
    return max(named, key=lambda form: form.dtype.bits, default=otherwise)


def _constant_range(value: Value) -> Range:
    assert value.data is not None
    if not np.isfinite(value.data).all():
        raise UserError(
            f"the constant %{value.name} holds NaN or infinity", code="not-finite", hint="leave its node out"
        )
    return Range(float(value.data.min(initial=0.0)), float(value.data.max(initial=0.0)))


def _store_weights(plan: QuantPlan, form: IntegerForm, per_channel: bool, per_channel_of: Mapping[str, bool]) -> None:
    """Weights with the scales that all their readers need, then the biases in units of these."""
    users: dict[tuple[Value, int | None], list[Node]] = {}
    for node, index in plan.placement.weights.items():
        weight = node.input(index)
        assert weight is not None
        axis = channel_axis_of(node, index) if per_channel_of.get(node.name, per_channel) else None
        users.setdefault((weight, axis), []).append(node)
    for (weight, axis), nodes in users.items():
        plain = weight_parameters(weight, axis, form)
        least: Array | float = 0.0
        for node in nodes:
            bias = _bias(plan, node)
            if bias is not None:
                least = np.maximum(least, least_weight_scale(node, bias, _input_scale(plan, node), axis is not None))
        parameters = weight_parameters(weight, axis, form, least)
        raised = int(np.count_nonzero(parameters.scale > plain.scale))
        stored = StoredWeight(weight, axis, parameters, raised)
        for node in nodes:
            plan.weights[node] = stored
            bias = _bias(plan, node)
            if bias is not None:
                unit = by_output_channel(node, parameters.scale).astype(np.float32)
                scale = unit * np.float32(_input_scale(plan, node))
                plan.biases[node] = StoredBias(quantized_bias(bias, scale), scale)


def _bias(plan: QuantPlan, node: Node) -> Array | None:
    """The bias of a product whose weight is on the right: scales of one on the left aren't those of output channels. None where it
    isn't stored in integers."""
    if not plan.placement.runtime.integer_biases or not has_trait(node, BIAS) or plan.placement.weights[node] != 1:
        return None
    return bias_vector(node)


def _input_scale(plan: QuantPlan, node: Node) -> float:
    """Scale of the operand that the weight is multiplied with."""
    other = node.input(1 - plan.placement.weights[node])
    assert other is not None
    return float(plan.values[other].scale)
