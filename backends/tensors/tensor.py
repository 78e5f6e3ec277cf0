"""Lazy tensors: a shape and a rule for computing the element at an index.

Operators are lowered to these; loops appear only when a nest is emitted, so a chain of element-wise and movement operators costs
one pass over memory whatever its length. Evaluating a tensor at an index inside a ``Scope`` binds the result to a variable once, so
diamonds in the graph never blow the expression up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from graphopt.backends.base import dialect
from graphopt.backends.base.tvm_api import TensorLoad, tirx, tvm_ffi
from graphopt.backends.tensors.opaque import opaque

Expr = Any
"""A TVM scalar expression or a Python int."""
Index = tuple[Expr, ...]


MAX_WEIGHT = 200
"""Operations behind a variable, as TVM's passes see them, above which its value goes through memory."""
MAX_SCALAR_WEIGHT = 24
"""The same in loops that stay scalar for LLVM to vectorise, and where a value in memory has an element a lane (`Scope.lane`): there
memory costs TVM's vectoriser nothing. The time of TVM's passes
grows faster than the weight: below 200, x**y of float32 took them 2.7 s a copy."""
MAX_CONDITION = 48
"""Mentions of variables in a condition, each use of which is a copy of it, above which it goes through memory."""
_ON_STACK = {"disable_lower_builtin": tirx.const(True, "bool")}
_WEIGHTS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_OPERATIONS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""As ``_WEIGHTS``, and of scalars that are in memory because of `MAX_SCALAR_WEIGHT`."""
_OF_DATA: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""Variables whose values come out of memory."""


def as_expr(value: Expr) -> Expr:
    """``value`` as a TVM expression: an int as an int64 constant, an expression as it is."""
    return tirx.const(value, "int64") if isinstance(value, int) else value


def weight(value: Expr) -> int:
    """Size of an expression with every variable replaced by what it stands for: what it costs TVM's passes."""
    return _size(value, _WEIGHTS)


def operations(value: Expr) -> int:
    """The same whether or not its loops are scalar: what it costs at run time, about."""
    return _size(value, _OPERATIONS)


def _size(value: Expr, behind: WeakKeyDictionary[Any, int]) -> int:
    total = 1

    def count(var: Any) -> None:
        nonlocal total
        total += behind.get(var, 1)

    tvm_ffi.structural_walk(value, (tirx.Var, count))
    return total


def _variables(value: Expr) -> int:
    """How often an expression mentions a variable."""
    mentioned: list[Any] = []
    tvm_ffi.structural_walk(value, (tirx.Var, mentioned.append))
    return len(mentioned)


def _depends_on_data(value: Expr) -> bool:
    """Whether a value is computed from elements in memory, not from positions and extents alone."""
    found = False

    def load(_: Any) -> None:
        nonlocal found
        found = True

    def variable(var: Any) -> None:
        nonlocal found
        found = found or is_of_data(var)

    tvm_ffi.structural_walk(value, [(TensorLoad, load), (tirx.Var, variable)])
    return found


def is_of_data(var: Any) -> bool:
    """Whether the value of a variable of a scope comes out of memory."""
    return bool(_OF_DATA.get(var))


class Scope:
    """Variables bound at one place of the generated code; inner scopes see outer ones.

    Attributes:
        inline: part of an expression: elements read are shared but introduce no variables.
        branches: something in it is computed conditionally. TVM 0.27 vectorises a bound if_then_else wrongly (a lane's value is
            hoisted), so loops around such a scope stay scalar for LLVM to vectorise.
        scalar: the loops around it are known to stay so, though it has not met what makes them.
        lane: number and extent of the iterations of the loop around it, where that may be vectorised: what goes through memory then
            has an element for each of them.
        kept_work: operations behind the values that went through memory, as `operations` counts them.
    """

    _stack: list[Scope] = []

    def __init__(self, inline: bool = False, scalar: bool = False, lane: tuple[Expr, int] | None = None) -> None:
        self.inline = inline
        self.scalar = scalar
        self.lane = lane
        self.branches = False
        self.kept_work = 0
        self.binds: list[tuple[Any, Expr]] = []
        self._cuts: set[int] = set()
        self._memo: dict[tuple[int, ...], Expr] = {}
        self._alive: list[object] = []

    def __enter__(self) -> Scope:
        Scope._stack.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        Scope._stack.pop()

    @classmethod
    def lookup(cls, key: tuple[int, ...]) -> Expr | None:
        """A value computed before in any enclosing scope."""
        for scope in reversed(cls._stack):
            if key in scope._memo:
                return scope._memo[key]
        return None

    @classmethod
    def bind(cls, key: tuple[int, ...], value: Expr, keep: object) -> Expr:
        """Remember ``value`` in the innermost scope, as a variable unless it is trivial."""
        if not cls._stack:
            return value
        scope = cls._stack[-1]
        if not scope.inline and not _trivial(value):
            value = scope.name(value)
        scope._memo[key] = value
        scope._alive.append(keep)
        return value

    def name(self, value: Expr) -> Expr:
        """``value`` under a name: a variable, or a scalar in memory once the tree behind it has grown too large.

        TVM's passes look through variables, so a chain of diamonds costs them exponential time; LLVM turns the memory back into a
        register. What variables of data hold is hidden from TVM (``graphopt.backends.tensors.opaque`` says why). What variables
        of positions hold is not: ramps are found in it.
        """
        size, work = weight(value), operations(value)
        dtype = str(value.ty.dtype)
        data = dtype.startswith("float") or _depends_on_data(value)
        cheap = self.lane is not None or self.branches or self.scalar
        large = not dialect.has_functions() and (work > MAX_WEIGHT or (data and cheap and size > MAX_SCALAR_WEIGHT))
        if (large or dtype == "bool") and not self.inline:
            return self._through_memory(value, work)
        if data and not isinstance(value, TensorLoad):
            value = opaque(value)
        var = tirx.Var(f"t{len(self.binds)}", value.ty)
        self.binds.append((var, value))
        # nothing looks through a call of a device function, by which data are hidden
        _WEIGHTS[var], _OPERATIONS[var] = 1 if data and dialect.has_functions() else size, work
        if data:
            _OF_DATA[var] = True
        return var

    def _through_memory(self, value: Expr, work: int) -> Expr:
        """``value`` read back from memory: of the current iteration alone, so that LLVM makes a register of it again."""
        dtype = str(value.ty.dtype)
        if dtype == "bool" and self.lane is not None:
            # TVM 0.27 has no vectors of conditions in memory
            number = tirx.Select(value, tirx.const(1.0, "float32"), tirx.const(0.0, "float32"))
            return tirx.NE(self._through_memory(number, work), tirx.const(0.0, "float32"))
        at, extent = self.lane or (tirx.const(0, "int64"), 1)
        cut = tirx.decl_buffer((extent,), dtype, f"t{len(self.binds)}", scope="local")
        if work > MAX_WEIGHT or dtype == "bool":
            self.kept_work += work
        else:
            _OPERATIONS[cut] = work
        self.binds.append((cut, value))
        self._cuts.add(hash(cut))
        self._alive.append(cut)
        if self.lane is None:
            scalar_loops()  # the scalar is one per iteration, which TVM's vectoriser does not know; LLVM's does
        return tirx.BufferLoad(cut, [at])

    @property
    def heaviest(self) -> int:
        """The most operations behind one of the variables, as TVM's passes see them."""
        return max((_WEIGHTS.get(var, 1) for var, _ in self.binds if isinstance(var, tirx.Var)), default=0)

    def wrap(self, value: Expr) -> Expr:
        """``value`` within this scope's bindings, as one expression."""
        for var, bound in reversed(self.binds):
            value = tirx.Let(var, bound, value)
        return value

    def statements(self) -> list[Any]:
        """This scope's bindings as statements."""
        out: list[Any] = []
        for target, bound in self.binds:
            if hash(target) in self._cuts:
                out.append(tirx.AllocBuffer(target, annotations=_ON_STACK))
                at, _ = self.lane or (tirx.const(0, "int64"), 1)
                out.append(tirx.BufferStore(target, bound, [at]))
            else:
                out.append(tirx.Bind(target, bound))
        return out


class Tensor:
    """A lazily computed tensor.

    Attributes:
        shape: extents, ints where known, else TVM int64 expressions.
        dtype: TVM dtype.
        walk: how the elements lie in a buffer, where they do (``graphopt.backends.tensors.walk``).
        parts: tensors that make this one up and where each begins, if it is stored faster part by part.
        steps: of integers that were quantized in this kernel: how far they are from their zero point, in floating point, and
            that zero point.
    """

    def __init__(
        self,
        shape: Sequence[Expr],
        dtype: str,
        fn: Callable[..., Expr],
        *,
        walk: Any = None,
        parts: Sequence[tuple[Tensor, Index]] | None = None,
        steps: tuple[Tensor, int] | None = None,
    ) -> None:
        self.shape: tuple[Expr, ...] = tuple(shape)
        self.dtype = dtype
        self._fn = fn
        self.walk = walk
        self.parts = parts
        self.steps = steps

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __call__(self, *index: Expr) -> Expr:
        """The element at ``index``, bound once in the current scope."""
        if len(index) != len(self.shape):
            raise ValueError(f"{len(index)} indices for a tensor of rank {len(self.shape)}")
        key = (id(self), *(_key(i) for i in index))
        found = Scope.lookup(key)
        if found is None:
            found = Scope.bind(key, self._fn(*index), (self, index))
        return found


def _key(index: Expr) -> int:
    return index if isinstance(index, int) else hash(index)


def scalar_loops() -> None:
    """Keep the loops around the current place scalar: TVM 0.27 can't vectorise what is computed here."""
    for scope in Scope._stack:
        scope.branches = True


def as_number(index: Expr, dtype: str) -> Expr:
    """A position or extent (so not negative) as a float.

    TVM 0.27 turns vectors of positions into ramps of floats, which it then can't handle; and its simplifier fails on the bound
    product of a converted position and a variable, which the maximum hides from it.
    """
    if isinstance(index, int):
        return tirx.const(float(index), dtype)
    scalar_loops()
    return tirx.max(index.astype(dtype), tirx.const(0.0, dtype))


def choose(condition: Expr, then: Callable[[], Expr], otherwise: Callable[[], Expr]) -> Expr:
    """``then()`` where the condition holds, else ``otherwise()``; only the branch taken is evaluated (no stray loads)."""
    if isinstance(condition, (bool, int)):
        return then() if condition else otherwise()
    if isinstance(condition, tirx.IntImm):
        return then() if condition.value else otherwise()
    scalar_loops()
    with Scope(inline=True) as yes:
        a = then()
    with Scope(inline=True) as no:
        b = otherwise()
    return tirx.if_then_else(condition, yes.wrap(a), no.wrap(b))


def let(value: Expr) -> Expr:
    """``value`` bound to a variable at the current place: expressions are trees to TVM, so what is used often must be bound."""
    if not Scope._stack or _trivial(value):
        return value
    return Scope._stack[-1].name(value)


def named(tensor: Tensor) -> Tensor:
    """``tensor`` with every element bound to a variable where it is first asked for, within an expression too.

    For tensors that several others read: inside an expression (`Scope.inline`) each reader would have a copy of what computes an
    element, and a chain of diamonds a number of copies that grows exponentially. A condition is kept as a number, since TVM can't
    hide what a variable of conditions holds.
    """
    if tensor.dtype != "bool":
        return Tensor(tensor.shape, tensor.dtype, lambda *index: let(tensor(*index)))

    def condition(*index: Expr) -> Expr:
        number = let(tirx.Select(tensor(*index), tirx.const(1.0, "float32"), tirx.const(0.0, "float32")))
        return tirx.NE(number, tirx.const(0.0, "float32"))

    return Tensor(tensor.shape, "bool", condition)


def _trivial(value: Expr) -> bool:
    """Whether a value gets no variable. Conditions get none, which TVM can't hide; large ones go through memory."""
    if isinstance(value, (int, float, tirx.Var, tirx.IntImm, tirx.FloatImm)):
        return True
    return str(value.ty.dtype) == "bool" and _variables(value) <= MAX_CONDITION


def broadcast_index(tensor: Tensor, index: Sequence[Expr]) -> Index:
    """The index into ``tensor`` for an element of a larger shape that it is broadcast to (numpy rules)."""
    tail = index[len(index) - tensor.rank :]
    return tuple(0 if isinstance(d, int) and d == 1 else i for d, i in zip(tensor.shape, tail))


def stretched(tensor: Tensor, axes: Mapping[int, Expr], even: Callable[[Sequence[Expr]], bool]) -> Tensor:
    """``tensor`` broadcast along axes of which only run time tells whether their extent is 1.

    Args:
        axes: the extent after broadcasting, by axis.
        even: told the conditions under which nothing is broadcast; whether the current code may assume them.
    """
    conditions = [tirx.EQ(tensor.shape[a], as_expr(extent)) for a, extent in axes.items()]

    def element(*index: Expr) -> Expr:
        if even(conditions):
            return tensor(*index)
        if tensor.rank - 1 in axes:
            scalar_loops()  # neighbours may be one element or several, which no vector load is
        at = list(index)
        for a in axes:
            if not (isinstance(at[a], int) and at[a] == 0):
                at[a] = tirx.Select(tirx.EQ(tensor.shape[a], as_expr(1)), as_expr(0), as_expr(at[a]))
        return tensor(*at)

    return Tensor([axes.get(a, d) for a, d in enumerate(tensor.shape)], tensor.dtype, element)


def elementwise(fn: Callable[..., Expr], dtype: str, shape: Sequence[Expr], *inputs: Tensor) -> Tensor:
    """``out[i] = fn(*inputs[i])`` with numpy broadcasting to ``shape``."""
    return Tensor(shape, dtype, lambda *index: fn(*(t(*broadcast_index(t, index)) for t in inputs)))
