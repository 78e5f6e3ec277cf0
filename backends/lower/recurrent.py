"""LSTM, GRU and RNN: one product of the whole sequence with the input weights, then a serial loop over time.

Every product is a row of weights times a vector, vectorised along the row as ONNX stores it: nothing is transposed, and with the
batches of one that streaming models use each weight is read once. States live in scratch buffers that are updated in place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.activations import Activation, clipped, named_activations
from graphopt.backends.lower.bounds import check_between
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors.builder import Output, reader
from graphopt.backends.tensors.loops import loop, seq
from graphopt.backends.tensors.tensor import Expr, Index, Tensor, as_expr


class _Recurrent(ABC):
    """What the three operators share. Tensors inside are [1, 1, batch, hidden]: the place of one step in [time, direction, ...]."""

    gates: ClassVar[int]
    lens_input: ClassVar[int] = 4
    states: ClassVar[tuple[int, ...]] = (5,)
    """Inputs with initial states: hidden, then cell."""

    def __init__(self, c: LowerContext) -> None:
        self.c, self.k = c, c.k
        self.batch_first = bool(c.attr("layout"))
        x, self.w, self.r = c.x(0), c.x(1), c.x(2)
        self.dtype = x.dtype
        """Of sums and states."""
        self.time, self.batch = (x.shape[1], x.shape[0]) if self.batch_first else (x.shape[0], x.shape[1])
        self.features = x.shape[2]
        self.hidden = self.r.shape[2]
        direction = str(c.attr("direction") or "forward")
        self.reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
        functions = named_activations(c.node)
        if isinstance(functions, str):
            raise c.invalid(functions)
        self.functions = functions
        clip = c.attr("clip")
        self.clip = clipped(None if clip is None else float(clip))
        self.lens = c.x(self.lens_input) if c.has(self.lens_input) else None
        if self.lens is not None:
            time = c.shape(0)[1 if c.attr("layout") else 0]
            check_between(c, self.lens_input, 0, time, "a sequence is longer than the data")

    @property
    def step_shape(self) -> tuple[Expr, ...]:
        """One step of one direction."""
        return (1, 1, self.batch, self.hidden)

    def cast(self, value: Expr) -> Expr:
        """A model value as a summand."""
        return value if str(value.ty.dtype) == self.dtype else value.astype(self.dtype)

    def run(self) -> list[Tensor]:
        """Y, Y_h and, with a cell, Y_c."""
        k, directions = self.k, len(self.reverse)
        kept = (self.time, directions, self.batch, self.hidden)
        # scratch that is never read would not survive TVM's compaction of buffers
        out0 = self.c.node.output(0)
        history = k.workspace(kept, self.dtype) if out0 is not None and (out0.uses or out0.escapes) else None
        finals: list[list[Tensor]] = []
        for d in range(directions):
            finals.append(self._direction(d, history))
        steps = None if history is None else reader(history, kept, self.dtype)
        out = self.c.x(0).dtype

        def sequence(t: Expr, d: Expr, b: Expr, h: Expr) -> Expr:
            assert steps is not None
            value = steps(t, d, b, h).astype(out)
            if self.lens is None:
                return value
            return tirx.Select(t < self.lens(b).astype("int64"), value, const(0, out))

        def state(i: int) -> Callable[..., Expr]:
            def element(d: Expr, b: Expr, h: Expr) -> Expr:
                value = finals[0][i](0, 0, b, h)
                if directions == 2:
                    value = tirx.Select(tirx.EQ(as_expr(d), as_expr(0)), value, finals[1][i](0, 0, b, h))
                return value.astype(out)

            return element

        dims = [self.c.out_shape(i) if self.c.node.output(i) is not None else () for i in range(1 + len(self.states))]
        results = []
        for i, shape in enumerate(dims):
            fn = sequence if i == 0 else state(i - 1)
            if self.batch_first:
                fn = _batch_first(fn, i == 0)
            results.append(Tensor(shape, out, fn))
        return results

    def _direction(self, d: int, history: Any) -> list[Tensor]:
        k = self.k
        inputs = self._project(d)
        states = []
        for source in self.states:
            start = self.c.x(source) if self.c.has(source) else None

            def initial(_s: Expr, _d: Expr, b: Expr, h: Expr, start: Tensor | None = start) -> Expr:
                if start is None:
                    return const(0, self.dtype)
                return self.cast(start(b, d, h) if self.batch_first else start(d, b, h))

            buffer = k.workspace(self.step_shape, self.dtype)
            k.emit([Output(Tensor(self.step_shape, self.dtype, initial), buffer)])
            states.append((buffer, reader(buffer, self.step_shape, self.dtype)))

        def step(s: Expr) -> None:
            def projected(g: int, b: Expr, h: Expr) -> Expr:
                return inputs(self._position(d, s, b), b, g * self.hidden + h, 0)

            values = self.step(d, projected, [t for _, t in states])
            kept = [self._where_active(s, new, old) for new, (_, old) in zip(values, states)]
            outputs = [Output(new, buffer) for new, (buffer, _) in zip(kept, states)]
            if self.lens is None and history is not None:
                at = self._position(d, s, 0)
                outputs.append(Output(values[0], history, begin=(at, d, 0, 0)))
            k.emit(outputs)
            if self.lens is not None and history is not None:
                self._scatter(d, s, history, states[0][1])

        self._serial(self.time, step)
        return [tensor for _, tensor in states]

    def _project(self, d: int) -> Tensor:
        """``x W' + bias`` of the whole sequence, [time, batch, gates * hidden, 1]."""
        x, gates = self.c.x(0), self.gates * self.hidden

        def body(i: Index, r: Index) -> Expr:
            t, b, g, _ = i
            value = x(b, t, r[0]) if self.batch_first else x(t, b, r[0])
            return self.cast(value) * self.cast(self.w(d, g, r[0]))

        # a last axis of one makes the nest vectorise along the features
        product = self.k.reduce((self.time, self.batch, gates, 1), self.dtype, (self.features,), body)
        return self.k.stage(Tensor(product.shape, self.dtype, lambda t, b, g, o: product(t, b, g, o) + self.bias(d, g)))

    def bias(self, d: int, gate: Expr) -> Expr:
        """What is added before the loop."""
        if not self.c.has(3):
            return const(0, self.dtype)
        both = self.c.x(3)
        return self.cast(both(d, gate)) + self.cast(both(d, gate + self.gates * self.hidden))

    def recur(self, d: int, vector: Tensor, first: int, count: int) -> Tensor:
        """``vector R'`` for ``count`` gates from ``first`` on, [batch, count * hidden, 1] in scratch."""

        def body(i: Index, r: Index) -> Expr:
            b, g, _ = i
            return vector(0, 0, b, r[0]) * self.cast(self.r(d, g + first * self.hidden, r[0]))

        shape = (self.batch, count * self.hidden, 1)
        return self.k.stage(self.k.reduce(shape, self.dtype, (self.hidden,), body))

    def _position(self, d: int, s: Expr, b: Expr) -> Expr:
        """Which element of the sequence step ``s`` handles; a reversed one starts at the sequence's own end."""
        if not self.reverse[d]:
            return s
        if self.lens is None:
            return self.time - 1 - s
        length = self.lens(b).astype("int64")
        return tirx.Select(s < length, length - 1 - s, s)

    def _where_active(self, s: Expr, new: Tensor, old: Tensor) -> Tensor:
        """A sequence that has ended keeps its state."""
        if self.lens is None:
            return new
        lens = self.lens
        return Tensor(
            new.shape, new.dtype,
            lambda _s, _d, b, h: tirx.Select(s < lens(b).astype("int64"), new(0, 0, b, h), old(0, 0, b, h)),
        )  # fmt: skip

    def _scatter(self, d: int, s: Expr, history: Any, state: Tensor) -> None:
        """Write a step to a place in the history that depends on the sequence."""
        b, h = tirx.Var("b", "int64"), tirx.Var("h", "int64")
        store = tirx.BufferStore(history, state(0, 0, b, h), [as_expr(self._position(d, s, b)), as_expr(d), b, h])
        self.k.raw(loop(b, self.batch, loop(h, self.hidden, store)))

    def _serial(self, extent: Expr, body: Callable[[Expr], None]) -> None:
        outer, self.k.statements = self.k.statements, []
        var = tirx.Var("step", "int64")
        body(var)
        inner, self.k.statements = self.k.statements, outer
        self.k.raw(loop(var, extent, seq(inner)))

    def tensor(self, fn: Callable[[Expr, Expr], Expr]) -> Tensor:
        """A step's tensor from a function of batch and hidden index."""
        return Tensor(self.step_shape, self.dtype, lambda _s, _d, b, h: fn(b, h))

    def activated(self, fn: Activation, value: Callable[[Expr, Expr], Expr]) -> Tensor:
        """``fn(clip(value))`` in scratch: TVM's simplifier takes exponential time on expressions with several activations."""
        return self.k.stage(self.tensor(lambda b, h: fn(self.clip(value(b, h)))))

    @abstractmethod
    def step(self, d: int, x: Callable[[int, Expr, Expr], Expr], states: Sequence[Tensor]) -> list[Tensor]:
        """The new states: hidden, then cell. ``x(gate, batch, hidden)`` is the projected input of this step."""


class _Rnn(_Recurrent):
    gates = 1

    def step(self, d: int, x: Callable[[int, Expr, Expr], Expr], states: Sequence[Tensor]) -> list[Tensor]:
        back = self.recur(d, states[0], 0, 1)
        f = self.functions[d][0]
        return [self.activated(f, lambda b, h: x(0, b, h) + back(b, h, 0))]


class _Lstm(_Recurrent):
    gates = 4
    states = (5, 6)

    def step(self, d: int, x: Callable[[int, Expr, Expr], Expr], states: Sequence[Tensor]) -> list[Tensor]:
        f, g, last = self.functions[d]
        hidden, cell = states
        back = self.recur(d, hidden, 0, 4)

        def gate(n: int, fn: Activation, seen: Tensor | None = None) -> Tensor:
            def value(b: Expr, h: Expr) -> Expr:
                total = x(n, b, h) + back(b, n * self.hidden + h, 0)
                if seen is not None and self.c.has(7):
                    total = total + self.cast(self.c.x(7)(d, n * self.hidden + h)) * seen(0, 0, b, h)
                return total

            return self.activated(fn, value)

        # gates stand in the order input, output, forget, candidate; peepholes in the order of the first three
        entry, candidate = gate(0, f, cell), gate(3, g)
        forget = None if self.c.attr("input_forget") else gate(2, f, cell)

        def new_cell(b: Expr, h: Expr) -> Expr:
            i = entry(0, 0, b, h)
            keep = const(1, self.dtype) - i if forget is None else forget(0, 0, b, h)
            return keep * cell(0, 0, b, h) + i * candidate(0, 0, b, h)

        made = self.k.stage(self.tensor(new_cell))
        exposed = gate(1, f, made)
        return [self.tensor(lambda b, h: exposed(0, 0, b, h) * last(made(0, 0, b, h))), made]


class _Gru(_Recurrent):
    gates = 3

    def bias(self, d: int, gate: Expr) -> Expr:
        # the recurrent bias of the candidate belongs inside the product with the reset gate
        if not self.c.has(3) or not self.c.attr("linear_before_reset"):
            return super().bias(d, gate)
        own = self.cast(self.c.x(3)(d, gate))
        size = 3 * self.hidden
        return own + tirx.Select(gate < 2 * self.hidden, self.cast(self.c.x(3)(d, gate + size)), const(0, self.dtype))

    def step(self, d: int, x: Callable[[int, Expr, Expr], Expr], states: Sequence[Tensor]) -> list[Tensor]:
        f, g = self.functions[d]
        hidden = states[0]
        linear = bool(self.c.attr("linear_before_reset"))
        back = self.recur(d, hidden, 0, 3 if linear else 2)

        reset = self.activated(f, lambda b, h: x(1, b, h) + back(b, self.hidden + h, 0))
        update = self.activated(f, lambda b, h: x(0, b, h) + back(b, h, 0))

        if linear:

            def candidate(b: Expr, h: Expr) -> Expr:
                product = back(b, 2 * self.hidden + h, 0)
                if self.c.has(3):
                    product = product + self.cast(self.c.x(3)(d, 5 * self.hidden + h))
                return x(2, b, h) + reset(0, 0, b, h) * product
        else:
            scaled = self.k.stage(self.tensor(lambda b, h: reset(0, 0, b, h) * hidden(0, 0, b, h)))
            product = self.recur(d, scaled, 2, 1)

            def candidate(b: Expr, h: Expr) -> Expr:
                return x(2, b, h) + product(b, h, 0)

        proposed = self.activated(g, candidate)

        def new(b: Expr, h: Expr) -> Expr:
            keep = update(0, 0, b, h)
            return (const(1, self.dtype) - keep) * proposed(0, 0, b, h) + keep * hidden(0, 0, b, h)

        return [self.tensor(new)]


def _batch_first(fn: Callable[..., Expr], sequence: bool) -> Callable[..., Expr]:
    """Layout 1: batch before time, and before direction in states."""
    if sequence:
        return lambda b, t, d, h: fn(t, d, b, h)
    return lambda b, d, h: fn(d, b, h)


@lowers("RNN")
def _rnn(c: LowerContext) -> Lowered:
    return _Rnn(c).run()


@lowers("LSTM")
def _lstm(c: LowerContext) -> Lowered:
    return _Lstm(c).run()


@lowers("GRU")
def _gru(c: LowerContext) -> Lowered:
    return _Gru(c).run()
