"""RewriteSet: applies rules until nothing matches, and says what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from graphopt.errors import GraphOptError, InternalError
from graphopt.ir.dims import Dim
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType
from graphopt.ir.unify import equated, substitute
from graphopt.ops.infer import infer_node
from graphopt.rewrite.passes import PassContext, graphs
from graphopt.rewrite.pattern import NoMatch, candidates, check_closed_world
from graphopt.rewrite.rule import Match, Rule

FIRINGS_PER_NODE = 20
"""More rewrites than this for every node the graph had at the start are taken for a cycle."""


class RuleEditor(Editor):
    """Inserts before the node being rewritten, and gives new nodes the origins of all nodes they replace."""

    def __init__(self, graph: Graph, match: Match) -> None:
        super().__init__(graph, infer_node)
        self._match = match
        self.made: list[Node] = []

    def node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: dict[str, Any] | None = None,
        *,
        outputs: int | Sequence[Value | None] = 1,
        domain: str = "",
        name: str | None = None,
        before: Node | None = None,
        like: Sequence[Node] = (),
    ) -> Node:
        """As ``Editor.node``, with the match's root and nodes as defaults of ``before`` and ``like``."""
        node = super().node(
            op,
            inputs,
            attrs,
            outputs=outputs,
            domain=domain,
            name=name,
            before=before or self._match.root,
            like=like or self._match.nodes,
        )
        self.made.append(node)
        return node


class RewriteSet:
    """An ordered set of rules; for a node the first that fires wins.

    Args:
        rules: in order of preference.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self._by_op: dict[str, list[Rule]] = {}
        for rule in self.rules:
            for op in rule.root.ops:
                self._by_op.setdefault(op, []).append(rule)

    def apply(self, graph: Graph, ctx: PassContext) -> int:
        """Rewrite the graph and its subgraphs to a fixpoint; returns the number of rewrites.

        Raises:
            InternalError: a rule broke the graph, or rules undo each other for ever (all of these are named).
        """
        budget = FIRINGS_PER_NODE * (sum(1 for _ in graph.walk()) + 10)
        fired: Counter[str] = Counter()
        while True:
            before = graph.root.version
            for g in list(graphs(graph)):
                for node in list(g.nodes):
                    self._visit(node, ctx, fired)
                    if fired.total() > budget:
                        raise _cycle(fired, budget)
            if graph.root.version == before:
                return fired.total()

    def _visit(self, node: Node, ctx: PassContext, fired: Counter[str]) -> None:
        if node.domain:
            return
        for rule in self._by_op.get(node.op, ()):
            if not _alive(node):
                return
            match = self._match(rule, node, ctx)
            if match is None:
                continue
            label = node.label
            self._replace(rule, match)
            fired[rule.name] += 1
            ctx.applied(node, f"{', '.join(n.label for n in match.nodes if n.label != label) or 'alone'}", rule.name)
            return

    @staticmethod
    def _match(rule: Rule, node: Node, ctx: PassContext) -> Match | None:
        reason: NoMatch | None = None
        for values, nodes in candidates(rule.root, node):
            match = Match(node, values, nodes, ctx)
            try:
                check_closed_world(rule.root, node, nodes)
                rule.check(match)
            except NoMatch as e:
                reason = reason or e
                continue
            return match
        if reason is not None:
            ctx.refuse(node, str(reason), rule.name)
        return None

    @staticmethod
    def _replace(rule: Rule, match: Match) -> None:
        root = match.root
        assert root.graph is not None
        editor = RuleEditor(root.graph, match)
        olds = [o for o in root.outputs if o is not None]
        try:
            result = rule.rewrite(match, editor)
            news = [result] if isinstance(result, Value) else list(result)
            for old, new in zip(olds, news):
                _replace_value(editor, old, new)
        except NoMatch as e:
            raise InternalError(f"rule {rule.name} refused after check(): {e}", node=root.label) from e
        except GraphOptError as e:
            raise InternalError(
                f"rule {rule.name} failed: {e.message}", code="broken-rule", node=root.label, notes=e.notes
            ) from e
        editor.erase_dead([n.out for n in reversed(match.nodes)])


def _replace_value(editor: RuleEditor, old: Value, new: Value) -> None:
    reconcile(old, new)
    if not editor.can_take_name(old, new):
        new = editor.node("Identity", [new]).out
    taken = new.name
    editor.replace(old, new)
    if new.name == taken and new.producer in editor.made:
        # Inner values that compute the same keep their names: people look for them when comparing with the original.
        editor.swap_names(old, new)


def reconcile(old: Value, new: Value) -> None:
    """Give ``new`` the symbols and contents by which the rest of the graph knows ``old``.

    Raises:
        InternalError: they can't hold the same tensor.
    """
    a, b = old.type, new.type
    if a == b or not isinstance(a, TensorType) or a.shape is None:
        pass
    elif (
        not isinstance(b, TensorType)
        or a.dtype is not b.dtype
        or (b.shape is not None and len(b.shape) != len(a.shape))
    ):
        raise InternalError(f"replacing %{old.name}: {a} by %{new.name}: {b}")
    elif b.shape is None:
        new.type = a
    else:
        new.type = TensorType(a.dtype, tuple(_dim(old, new, x, y) for x, y in zip(a.shape, b.shape)))
    if new.content is None and not new.is_const and old.content is not None:
        new.content, new.binds = old.content, old.binds
    elif old.binds and old.producer is not None and old.producer.graph is not None:
        symbols: dict[str, Dim] = {}
        equated(old, new, symbols)
        substitute(old.producer.graph.root, symbols)


def _dim(old: Value, new: Value, have: Dim, made: Dim) -> Dim:
    if isinstance(have, int) and isinstance(made, int) and have != made:
        raise InternalError(f"replacing %{old.name}: {old.type} by %{new.name}: {new.type}")
    return made if isinstance(made, int) else have


def _alive(node: Node) -> bool:
    return any(o is not None and o.producer is node for o in node.outputs)


def _cycle(fired: Counter[str], budget: int) -> InternalError:
    worst = [f"{name} fired {count} times" for name, count in fired.most_common(4)]
    return InternalError(
        f"rules undo each other: no fixpoint after {budget} rewrites",
        code="rewrite-cycle",
        notes=worst,
        hint="skip one of the named rules' passes, and report this",
    )
