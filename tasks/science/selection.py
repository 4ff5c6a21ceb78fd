"""The selection language: which rows of a table to take, as a line of text that is parsed and never executed.

An expression such as ``17 < mag_auto < 21.5 and abs(fwhm - mode(fwhm, flags == 0)) < 0.2`` becomes a tree of nodes that
know numbers, columns, arithmetic, comparisons and the functions listed here, and nothing else.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ConfigError
from tasks.science.robust import mode, sigma_mad

Columns = Mapping[str, NDArray[Any]]
Value = Any
"""A float, or an array with one number or truth value per row."""
Kind = Literal["number", "condition"]
Evaluate = Callable[[Columns], Value]

MAX_LENGTH = 2000
MAX_DEPTH = 50

ELEMENTWISE: dict[str, tuple[int, Callable[..., Any]]] = {
    "abs": (1, np.abs),
    "sqrt": (1, np.sqrt),
    "log": (1, np.log),
    "log10": (1, np.log10),
    "exp": (1, np.exp),
    "pow": (2, np.power),
}
"""Functions of every row: number of arguments and meaning."""

AGGREGATES: dict[str, Callable[[NDArray[np.float64]], float]] = {
    "mean": np.mean,
    "median": np.median,
    "mode": mode,
    "std": np.std,
    "var": np.var,
    "sigma_mad": sigma_mad,
    "min": np.min,
    "max": np.max,
    "len": np.size,
}
"""Functions of the finite values of all rows, or of those that a second argument, a condition, names."""

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": np.true_divide,
}
TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![A-Za-z_0-9.]))"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<sign><=|>=|==|!=|[-+*/<>(),])"
)
WORDS = frozenset({"and", "or", "not"})


class _Token(NamedTuple):
    kind: Literal["number", "name", "sign", "end"]
    text: str
    position: int
    """Of the first character, counted from 1."""

    def is_sign(self, *signs: str) -> bool:
        return self.kind == "sign" and self.text in signs

    def is_word(self, word: str) -> bool:
        return self.kind == "name" and self.text.lower() == word


class _Node(NamedTuple):
    kind: Kind
    evaluate: Evaluate


@dataclass(frozen=True)
class Selection:
    """A parsed selection."""

    text: str
    """What it was parsed from."""
    columns: tuple[str, ...]
    """The columns that it reads, in the order of their first use."""
    _evaluate: Evaluate
    _positions: Mapping[str, int]

    def evaluate(self, table: Columns) -> NDArray[np.bool_]:
        """Tell which rows are selected.

        Parameters
        ----------
        table
            One-dimensional numeric columns of equal length by name; not changed. A row whose value is not finite
            fulfils no comparison but ``!=``.

        Returns
        -------
        ndarray of bool
            One value per row.

        Raises
        ------
        ConfigError
            If a column does not exist or has several numbers per row.
        """
        self.require(table.keys())
        used = {name: np.asarray(table[name]) for name in self.columns}
        for name, values in used.items():
            if values.ndim != 1 or values.dtype.kind not in "fiub":
                raise ConfigError(
                    f"Selection {self.text!r}: column {name!r} has {values.dtype} values of shape {values.shape}; "
                    "only columns with one number per row can be compared."
                )
        n_rows = len(next(iter(used.values()))) if used else len(np.asarray(next(iter(table.values()), ())))
        with np.errstate(all="ignore"):
            result = self._evaluate({name: values.astype(np.float64) for name, values in used.items()})
        return np.broadcast_to(np.asarray(result, dtype=np.bool_), (n_rows,)).copy()

    def require(self, names: Collection[str]) -> None:
        """Refuse a table that lacks one of the columns.

        Raises
        ------
        ConfigError
            With the position of the column in the text and the nearest name that exists.
        """
        for column in self.columns:
            if column not in names:
                _fail(self.text, self._positions[column], f"there is no column {column!r}{_nearest(column, names)}")


def parse_selection(text: str, columns: Collection[str] | None = None) -> Selection:
    """Parse a selection.

    The language has numbers (``1e-3``), columns, ``+ - * /`` with the usual precedence, parentheses, chains of
    comparisons (``17 < mag_auto < 21``), ``and``, ``or``, ``not``, functions of every row (abs, sqrt, log, log10, exp,
    pow) and of all rows (mean, median, mode, std, var, sigma_mad, min, max, len). The latter take a condition, too:
    ``mode(fwhm, flags == 0)`` is the mode over the rows without flags; over no rows at all they give NaN.

    Parameters
    ----------
    text
        The selection.
    columns
        Names that exist; without it unknown columns are noticed when the selection is evaluated.

    Returns
    -------
    Selection
        To be evaluated on any number of tables.

    Raises
    ------
    ConfigError
        If the text is not a selection: the sentence names the position, counted from 1, and the nearest valid name.
    """
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"A selection has at most {MAX_LENGTH} characters, not {len(text)}.")
    parser = _Parser(text)
    node = parser.parse()
    selection = Selection(text, tuple(parser.columns), node.evaluate, dict(parser.columns))
    if columns is not None:
        selection.require(columns)
    return selection


def _tokenize(text: str) -> list[_Token]:
    tokens, place = [], 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        match = TOKEN.match(text, place)
        if match is None:
            hint = "; equality is written ==" if text[place] == "=" else ""
            _fail(text, place + 1, f"{text[place]!r} cannot stand here{hint}")
        kind: Any = match.lastgroup
        tokens.append(_Token(kind, match.group(), place + 1))
        place = match.end()
    return [*tokens, _Token("end", "", len(text) + 1)]


class _Parser:
    """Recursive descent: one method per level of precedence, lowest first."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokenize(text)
        self.place = 0
        self.depth = 0
        self.columns: dict[str, int] = {}

    def parse(self) -> _Node:
        node = self._or()
        if self._next.kind != "end":
            self._fail(self._next, f"{self._next.text!r} is not expected")
        return self._expect(node, "condition", self.tokens[0])

    @property
    def _next(self) -> _Token:
        return self.tokens[self.place]

    def _take(self) -> _Token:
        token = self._next
        self.place += 1
        return token

    def _fail(self, token: _Token, reason: str) -> NoReturn:
        _fail(self.text, token.position, "it ends too early" if token.kind == "end" else reason)

    def _expect(self, node: _Node, kind: Kind, token: _Token) -> _Node:
        if node.kind != kind:
            self._fail(token, f"a {kind} is needed, and {token.text!r} begins a {node.kind}")
        return node

    def _or(self) -> _Node:
        return self._logical("or", self._and, np.logical_or)

    def _and(self) -> _Node:
        return self._logical("and", self._not, np.logical_and)

    def _logical(self, word: str, operand: Callable[[], _Node], combine: Callable[[Any, Any], Any]) -> _Node:
        start = self._next
        node = operand()
        while self._next.is_word(word):
            self._take()
            self._expect(node, "condition", start)
            start = self._next
            node = _combined("condition", combine, node, self._expect(operand(), "condition", start))
        return node

    def _not(self) -> _Node:
        if not self._next.is_word("not"):
            return self._comparison()
        self._deeper(self._take())
        start = self._next
        operand = self._expect(self._not(), "condition", start)
        self.depth -= 1
        return _Node("condition", lambda table: np.logical_not(operand.evaluate(table)))

    def _comparison(self) -> _Node:
        start = self._next
        left = self._sum()
        result: _Node | None = None
        while self._next.is_sign(*COMPARISONS):
            compare = COMPARISONS[self._take().text]
            self._expect(left, "number", start)
            start = self._next
            right = self._expect(self._sum(), "number", start)
            link = _combined("condition", compare, left, right)
            result = link if result is None else _combined("condition", np.logical_and, result, link)
            left = right
        return left if result is None else result

    def _sum(self) -> _Node:
        return self._arithmetic(("+", "-"), self._product)

    def _product(self) -> _Node:
        return self._arithmetic(("*", "/"), self._signed)

    def _arithmetic(self, signs: tuple[str, ...], operand: Callable[[], _Node]) -> _Node:
        start = self._next
        node = operand()
        while self._next.is_sign(*signs):
            combine = ARITHMETIC[self._take().text]
            self._expect(node, "number", start)
            start = self._next
            node = _combined("number", combine, node, self._expect(operand(), "number", start))
        return node

    def _signed(self) -> _Node:
        if not self._next.is_sign("+", "-"):
            return self._atom()
        sign = self._take()
        self._deeper(sign)
        start = self._next
        operand = self._expect(self._signed(), "number", start)
        self.depth -= 1
        return _Node("number", lambda table: -operand.evaluate(table)) if sign.text == "-" else operand

    def _atom(self) -> _Node:
        token = self._take()
        if token.kind == "number":
            value = float(token.text)
            return _Node("number", lambda _table: value)
        if token.is_sign("("):
            self._deeper(token)
            node = self._or()
            self._close()
            return node
        if token.kind != "name" or token.text.lower() in WORDS:
            self.place -= 1
            self._fail(token, f"a number, column or function is needed, not {token.text!r}")
        if self._next.is_sign("("):
            return self._function(token)
        name = token.text
        self.columns.setdefault(name, token.position)
        return _Node("number", lambda table: table[name])

    def _deeper(self, token: _Token) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self._fail(token, f"it is nested more than {MAX_DEPTH} levels deep")

    def _close(self) -> None:
        if not self._next.is_sign(")"):
            self._fail(self._next, f"')' is needed, not {self._next.text!r}")
        self._take()
        self.depth -= 1

    def _function(self, token: _Token) -> _Node:
        name = token.text.lower()
        if name not in ELEMENTWISE and name not in AGGREGATES:
            self._fail(token, f"there is no function {name!r}{_nearest(name, [*ELEMENTWISE, *AGGREGATES])}")
        self._deeper(self._take())
        arguments = [self._argument("number")]
        while self._next.is_sign(","):
            self._take()
            arguments.append(self._argument("condition" if name in AGGREGATES else "number"))
        self._close()
        wanted = (1, 2) if name in AGGREGATES else (ELEMENTWISE[name][0],)
        if len(arguments) not in wanted:
            expected = " or ".join(str(number) for number in wanted)
            self._fail(token, f"{name} takes {expected} argument{'s' if wanted != (1,) else ''}, not {len(arguments)}")
        if name in AGGREGATES:
            return _aggregate(AGGREGATES[name], *arguments)
        function = ELEMENTWISE[name][1]
        return _Node("number", lambda table: function(*(argument.evaluate(table) for argument in arguments)))

    def _argument(self, kind: Kind) -> _Node:
        start = self._next
        return self._expect(self._or(), kind, start)


def _combined(kind: Kind, combine: Callable[[Any, Any], Any], left: _Node, right: _Node) -> _Node:
    return _Node(kind, lambda table: combine(left.evaluate(table), right.evaluate(table)))


def _aggregate(
    function: Callable[[NDArray[np.float64]], float], values: _Node, condition: _Node | None = None
) -> _Node:
    def evaluate(table: Columns) -> float:
        numbers = np.atleast_1d(np.asarray(values.evaluate(table), dtype=np.float64))
        use = np.isfinite(numbers)
        if condition is not None:
            numbers, use = np.broadcast_arrays(numbers, use & np.asarray(condition.evaluate(table), dtype=np.bool_))
        chosen = numbers[use]
        if chosen.size == 0 and function is not np.size:
            return float("nan")
        return float(function(chosen))

    return _Node("number", evaluate)


def _nearest(name: str, names: Collection[str]) -> str:
    found = difflib.get_close_matches(name.lower(), list(names), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else f"; there are {', '.join(sorted(names))}"


def _fail(text: str, position: int, reason: str) -> NoReturn:
    raise ConfigError(f"Selection {text!r}, position {position}: {reason}.".replace("?.", "?"))
