"""The search for a pattern: all matches at once, as columns of node positions.

The candidates for the last statement are the first column. Every argument leads from the nodes of one column to those
of the next, as a join of tables does: a row is dropped where nothing fits and repeated where several nodes do. The
cost is that of the rows that arise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations

import numpy as np

from gnelint.lint.index import Index, Indices, Mask
from gnelint.lint.pattern import Argument, Pattern, Statement
from gnelint.theory.sorting import distinct

COMMUTATIVE = frozenset({"add", "mul", "mean", "maximum", "minimum"})

_MAX_COMMUTED = 4
"""Operands of a wider commutative node are matched in their given order: 4! orders are few, 8! are not."""

_MAX_NEAREST = 64
"""How many ends `via` keeps of paths that join: in a dense network they are as many as there are layers."""

MAX_ROWS = 2_000_000
"""Rows that may arise at a time. Paths and orders of operands multiply: a few lines of pattern could fill a memory."""

_Table = dict[str, Indices]


class TooManyMatchesError(ValueError):
    """A pattern that says too little for this graph."""


def find_matches(pattern: Pattern, index: Index) -> Mapping[str, Indices]:
    """For each name of the pattern the positions of its nodes, -1 where an optional one is missing; a row a match.

    The rows are in the topological order of the last statement's node, then of the others.

    Raises:
        TooManyMatchesError: more than `MAX_ROWS` rows arise.
    """
    search = _Search(pattern, index)
    sink = pattern.statements[-1]
    found = search.bind(sink, {}, np.flatnonzero(index.is_op(sink.operations)))
    keys = [found[name] for name in reversed(pattern.names)]
    order = np.lexsort(keys[::-1])
    ordered = np.stack([key[order] for key in keys])
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)
    return {name: found[name][order[fresh]] for name in pattern.names}


def _take(table: _Table, rows: Indices | Mask) -> _Table:
    if len(rows) > MAX_ROWS:
        raise TooManyMatchesError(f"more than {MAX_ROWS} matches")
    return {name: column[rows] for name, column in table.items()}


def _stacked(tables: Iterable[_Table]) -> _Table:
    parts = list(tables)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class _Search:
    """Columns are named by statements, `$name` for the value of a free name, `name:0` for the values that one reads."""

    def __init__(self, pattern: Pattern, index: Index) -> None:
        self.index = index
        self.statements = {statement.name: statement for statement in pattern.statements}

    def bind(self, statement: Statement, table: _Table, nodes: Indices) -> _Table:
        """The rows in which the given node can be taken for the statement, with all that it reads."""
        keep = self._fits(statement, nodes)
        table = {**_take(table, keep), statement.name: nodes[keep]}
        arguments = statement.arguments
        if arguments is None:
            return table
        counts = self.index.input_count[table[statement.name]]
        enough = counts >= len(arguments) if statement.open_ended else counts == len(arguments)
        table = self._with_operands(statement, _take(table, enough))
        for place, argument in enumerate(arguments):
            if argument.name != "_":
                table = self._resolve(argument, table, table.pop(f"{statement.name}:{place}"))
        return table

    def _fits(self, statement: Statement, nodes: Indices) -> Mask:
        known = nodes >= 0
        keep: Mask = known & self.index.is_op(statement.operations)[nodes] if nodes.size else known
        if statement.predicates:
            graph_nodes = self.index.nodes
            for row in np.flatnonzero(keep):
                node = graph_nodes[nodes[row]]
                keep[row] = all(predicate.holds(node) for predicate in statement.predicates)
        return keep

    def _with_operands(self, statement: Statement, table: _Table) -> _Table:
        """The rows with the values that the named arguments stand for, one row for each order that counts."""
        index, nodes = self.index, table[statement.name]
        named = [place for place, argument in enumerate(statement.arguments or ()) if argument.name != "_"]
        commutes = index.is_op(statement.operations & COMMUTATIVE)[nodes] & (index.input_count[nodes] <= _MAX_COMMUTED)
        parts = [self._in_order(statement, named, _take(table, ~commutes), named)]
        for count in distinct(index.input_count[nodes[commutes]]).tolist():
            same = _take(table, commutes & (index.input_count[nodes] == count))
            orders = permutations(range(count), len(named))
            parts.extend(self._in_order(statement, named, same, order) for order in orders)
        return _stacked(parts)

    def _in_order(self, statement: Statement, named: Sequence[int], table: _Table, order: Sequence[int]) -> _Table:
        start = self.index.input_start[table[statement.name]]
        read = {
            f"{statement.name}:{place}": self.index.inputs[start + chosen]
            for place, chosen in zip(named, order, strict=True)
        }
        return {**table, **read}

    def _resolve(self, argument: Argument, table: _Table, values: Indices) -> _Table:
        """The rows in which the value can stand for the argument, which is not `_`."""
        statement = self.statements.get(argument.name)
        if statement is None:
            return self._with_free_name(argument, table, values)
        bound = table.get(statement.name)
        rows, nodes = self._sources(argument, statement, values)
        if bound is None:
            marked = {**table, f"#{statement.name}": np.arange(len(values))}
            found = self.bind(statement, _take(marked, rows), nodes)
            taken = found.pop(f"#{statement.name}")
            left = np.ones(len(values), bool)
            left[taken] = False
            missing = np.flatnonzero(left)
        else:
            found = _take(table, rows[nodes == bound[rows]])
            missing = np.flatnonzero(bound < 0)
        if not statement.optional or not missing.size:
            return found
        # what is missing is passed over: its own argument is looked for at the same place
        (own,) = statement.arguments or ()
        absent = {**_take(table, missing), statement.name: np.full(missing.size, -1, np.intp)}
        rest = self._resolve(Argument(own.name, own.through | argument.through), absent, values[missing])
        return _stacked([found, rest])

    def _with_free_name(self, argument: Argument, table: _Table, values: Indices) -> _Table:
        roots = values.copy()
        moving = np.arange(len(roots)) if argument.through else np.empty(0, np.intp)
        passes = self.index.is_op(argument.through)
        while moving.size:
            nodes = self.index.producer[roots[moving]]
            moving, nodes = moving[nodes >= 0], nodes[nodes >= 0]
            onward = passes[nodes] & (self.index.first_input[nodes] >= 0)
            moving, nodes = moving[onward], nodes[onward]
            roots[moving] = self.index.first_input[nodes]
        known = table.get(f"${argument.name}")
        if known is None:
            return {**table, f"${argument.name}": roots}
        return _take(table, known == roots)

    def _sources(self, argument: Argument, statement: Statement, values: Indices) -> tuple[Indices, Indices]:
        """Rows, and the node that could be taken in each: the nearest that fits on the way back from the value."""
        rows = np.arange(len(values))
        nodes = self.index.producer[values]
        if not argument.through:
            return rows, nodes
        if argument.is_path:
            return self._along_paths(argument, statement, values)
        passes = self.index.is_op(argument.through) & (self.index.first_input >= 0)
        found_rows, found_nodes = [], []
        while rows.size:
            rows, nodes = rows[nodes >= 0], nodes[nodes >= 0]
            fits = self._fits(statement, nodes)
            found_rows.append(rows[fits])
            found_nodes.append(nodes[fits])
            onward = ~fits & passes[nodes]
            rows, nodes = rows[onward], self.index.producer[self.index.first_input[nodes[onward]]]
        if not found_rows:
            return rows, nodes
        return np.concatenate(found_rows), np.concatenate(found_nodes)

    def _along_paths(self, argument: Argument, statement: Statement, values: Indices) -> tuple[Indices, Indices]:
        """The nearest nodes that fit on all paths, found for every node in one pass."""
        index = self.index
        every = np.arange(len(index.nodes))
        fits = self._fits(statement, every).tolist()
        passes = index.is_op(argument.through).tolist()
        nearest: list[tuple[int, ...]] = []
        for node, read in enumerate(index.read_from):
            if fits[node]:
                nearest.append((node,))
            elif not passes[node] or not read:
                nearest.append(())
            elif len(read) == 1:
                nearest.append(nearest[read[0]])
            else:
                joined = {end for source in read for end in nearest[source]}
                nearest.append(tuple(sorted(joined)[-_MAX_NEAREST:]))
        ends = [nearest[node] if node >= 0 else () for node in index.producer[values].tolist()]
        rows = np.repeat(np.arange(len(values)), [len(found) for found in ends])
        return rows, np.array([end for found in ends for end in found], np.intp)
