r"""Explicit Runge-Kutta methods as tableaus of exact rationals, with proof of their order.

$$k_i=f\Big(t+c_ih,\;y+h\sum_{j\lt i}a_{ij}k_j\Big),\qquad y_1=y+h\sum_ib_ik_i$$

A method of one's own is proved before it is used:

>>> mine = make_tableau([["1/2"], [-1, 2]], ["1/6", "2/3", "1/6"], order=3)
>>> mine == kutta3._replace(name=mine.name)
True
>>> make_tableau([["1/2"], [-1, 2]], ["1/6", "2/3", "1/6"], order=4)
Traceback (most recent call last):
ValueError: order=4 is claimed, but the tree (((),), ()) leaves the residual 1/24
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from probjax.core import checks
from probjax.diffeq import order_conditions

Number = Fraction | float
"""A coefficient as it is kept: exact, or a decimal."""
Coefficient = int | str | Fraction | float
"""A coefficient as it may be given: `"1/3"` and `3` are exact."""


class Tableau(NamedTuple):
    """An explicit Runge-Kutta method of `s` stages."""

    a: tuple[tuple[Number, ...], ...]
    """Row `i` holds the `i` weights of the stages before stage `i`; row 0 is empty."""
    b: tuple[Number, ...]
    """Weights `(s,)` of the stages in the result."""
    b_hat: tuple[Number, ...] | None
    """Weights `(s,)` of a second result, not their difference to `b`; `None` without one."""
    c: tuple[Number, ...]
    """Times `(s,)` of the stages: the row sums of `a`."""
    order: int
    """Order of the result."""
    embedded_order: int | None
    """Order of the second result."""
    exact: bool
    """Whether all coefficients are rationals; else all are floats."""
    name: str
    """What it is called."""

    @property
    def num_stages(self) -> int:
        """How many stages there are.

        Example:
            >>> rk4.num_stages
            4
        """
        return len(self.b)

    @property
    def fsal(self) -> bool:
        """Whether the last stage is evaluated at the result: the first one of the next step.

        Example:
            >>> dormand_prince.fsal, cash_karp.fsal
            (True, False)
        """
        return self.b[-1] == 0 and self.a[-1] == self.b[:-1]

    def needed(self, *weights: Sequence[Number]) -> list[bool]:
        """Tell which stages sums with these weights read, themselves or through other stages.

        Args:
            weights: any number of rows `(s,)`, such as `b` and `b_hat`.

        Returns:
            A truth for each of the `s` stages.

        Example:
            >>> sum(dormand_prince.needed(dormand_prince.b)), dormand_prince.num_stages
            (6, 7)
        """
        needed = [any(row[i] != 0 for row in weights) for i in range(self.num_stages)]
        for i in reversed(range(self.num_stages)):
            if needed[i]:
                needed[:i] = [have or x != 0 for have, x in zip(needed, self.a[i], strict=False)]
        return needed


def make_tableau(
    a: Sequence[Sequence[Coefficient]],
    b: Sequence[Coefficient],
    *,
    b_hat: Sequence[Coefficient] | None = None,
    c: Sequence[Coefficient] | None = None,
    order: int,
    embedded_order: int | None = None,
    name: str = "custom",
) -> Tableau:
    """Return an explicit method whose claimed orders are proved.

    Args:
        a: the rows below the first one, of lengths 1 to `s - 1`; or all `s` rows, of lengths 0 to
            `s - 1` or padded with zeros to a square. Integers, strings such as "1/3", `Fraction`s;
            one float anywhere makes all of them floats.
        b: weights `(s,)`.
        b_hat: weights `(s,)` of the second result, if there is one.
        c: times `(s,)`; row sums of `a` by default, with which given ones must agree.
        order: the order that is claimed.
        embedded_order: that of `b_hat`; found out by default.
        name: what it is called.

    Returns:
        The method.

    Raises:
        ValueError: a row of the wrong length; an implicit method; `c` other than the row sums; a
            claim that fails, with the first tree that shows it and the residual there.

    Example:
        >>> make_tableau([[1]], ["1/2", "1/2"], b_hat=[1, 0], order=2).embedded_order
        1
        >>> make_tableau([["1/2"], [0, "1/2"]], [0, 1], order=1)
        Traceback (most recent call last):
        ValueError: a must have 1 rows below the first, one for each stage of b, got 2
    """
    checks.at_least("order", order, 1)
    rows = _rows(a, len(b))
    given = [*b, *(b_hat or ()), *(c or ()), *(x for row in rows for x in row)]
    exact = not any(isinstance(x, float) for x in given)
    tableau = _tableau(rows, b, b_hat, order=order, embedded_order=embedded_order, name=name)
    if not exact:
        tableau = _decimal(tableau)
    for label, weights in (("b_hat", b_hat), ("c", c)):
        if weights is not None and len(weights) != len(b):
            raise ValueError(f"{label} must have {len(b)} entries as b has, got {len(weights)}")
    for i, value in enumerate(c or ()):
        off = abs(Fraction(value) - Fraction(tableau.c[i]))
        if not off <= (0 if exact else order_conditions.DECIMAL_TOLERANCE):
            raise ValueError(f"c[{i}] must be the sum of row {i} of a, {tableau.c[i]}, got {value}")
    _prove("order", order, tableau, embedded=False)
    if b_hat is None:
        if embedded_order is not None:
            raise ValueError(f"embedded_order={embedded_order} needs b_hat, got None")
        return tableau
    if embedded_order is None:
        embedded_order = max(1, order_conditions.tableau_order(tableau, embedded=True))
    _prove("embedded_order", embedded_order, tableau, embedded=True)
    return tableau._replace(embedded_order=embedded_order)


def as_tableau(method: str | Tableau, *, name: str = "method") -> Tableau:
    """Return the method of a name, or a method as it is.

    Args:
        method: a key of `METHODS`, or a tableau.
        name: what the caller calls its argument, for the message.

    Returns:
        The tableau.

    Raises:
        ValueError: no method has that name.

    Example:
        >>> as_tableau("rk4").order
        4
        >>> as_tableau("rk5")
        Traceback (most recent call last):
        ValueError: method must be one of 'euler', 'midpoint', ..., got 'rk5'
    """
    if isinstance(method, Tableau):
        return method
    checks.one_of(name, method, METHODS)
    return METHODS[method]


def rk2(alpha: Coefficient) -> Tableau:
    r"""Return the two-stage method of order 2 whose second stage lies at $t+\alpha h$.

    $$a_{21}=\alpha,\qquad b=\Big(1-\frac1{2\alpha},\;\frac1{2\alpha}\Big)$$

    Args:
        alpha: not zero; 1 gives `heun`, 1/2 `midpoint`, 2/3 `ralston`.

    Returns:
        The method.

    Raises:
        ValueError: `alpha` is zero.

    Example:
        >>> rk2("1/2").b == midpoint.b
        True
    """
    value = float(alpha) if isinstance(alpha, float) else Fraction(alpha)
    if value == 0:
        raise ValueError("alpha must not be zero, got 0")
    second = 1 / (2 * value)
    return make_tableau([[value]], [1 - second, second], order=2, name=f"rk2({alpha})")


def _rows(a: Sequence[Sequence[Coefficient]], stages: int) -> list[list[Coefficient]]:
    """Bring every accepted layout to rows of lengths 0 to `stages - 1`."""
    rows = [list(row) for row in a]
    if len(rows) == stages and (stages == 1 or not rows[0] or len(rows[0]) == stages):
        for i, row in enumerate(rows):
            if len(row) == stages and any(Fraction(x) != 0 for x in row[i:]):
                raise ValueError(
                    f"a must be strictly lower triangular, got row {i} = {row}; implicit methods "
                    "are solved by diffrax, see its Kvaerno solvers"
                )
            rows[i] = row[:i] if len(row) == stages else row
    elif len(rows) == stages - 1:
        rows = [[], *rows]
    else:
        raise ValueError(
            f"a must have {stages - 1} rows below the first, one for each stage of b, "
            f"got {len(rows)}"
        )
    for i, row in enumerate(rows):
        if len(row) != i:
            raise ValueError(f"row {i} of a must have {i} entries, got {len(row)}")
    return rows


def _tableau(
    a: Sequence[Sequence[Coefficient]],
    b: Sequence[Coefficient],
    b_hat: Sequence[Coefficient] | None = None,
    *,
    order: int,
    embedded_order: int | None = None,
    name: str,
) -> Tableau:
    """Build without proof: the tests prove what stands below."""
    rows = tuple(tuple(Fraction(x) for x in row) for row in a)
    return Tableau(
        a=rows,
        b=tuple(Fraction(x) for x in b),
        b_hat=None if b_hat is None else tuple(Fraction(x) for x in b_hat),
        c=tuple(sum(row, Fraction(0)) for row in rows),
        order=order,
        embedded_order=embedded_order,
        exact=True,
        name=name,
    )


def _decimal(tableau: Tableau) -> Tableau:
    """Turn every coefficient into a float."""
    rows = tuple(tuple(float(x) for x in row) for row in tableau.a)
    return tableau._replace(
        a=rows,
        b=tuple(float(x) for x in tableau.b),
        b_hat=None if tableau.b_hat is None else tuple(float(x) for x in tableau.b_hat),
        c=tuple(math.fsum(row) for row in rows),
        exact=False,
    )


def _prove(claim: str, order: int, tableau: Tableau, *, embedded: bool) -> None:
    violation = order_conditions.first_violation(tableau, order, embedded=embedded)
    if violation is not None:
        tree, residual = violation
        raise ValueError(
            f"{claim}={order} is claimed, but the tree {tree} leaves the residual {residual}"
        )


def _named(name: str, order: int, a: str, b: str, b_hat: str = "", hat_order: int = 0) -> Tableau:
    """Read a tableau from text: rows between `;`, numbers between blanks."""
    rows = [row.split() for row in a.split(";")] if a else []
    second, second_order = (b_hat.split(), hat_order) if b_hat else (None, None)
    weights = b.split()
    return _tableau(
        [[], *rows], weights, second, order=order, embedded_order=second_order, name=name
    )


euler = _named("euler", 1, "", "1")
midpoint = _named("midpoint", 2, "1/2", "0 1")
heun = _named("heun", 2, "1", "1/2 1/2")
ralston = _named("ralston", 2, "2/3", "1/4 3/4")
kutta3 = _named("kutta3", 3, "1/2; -1 2", "1/6 2/3 1/6")
heun3 = _named("heun3", 3, "1/3; 0 2/3", "1/4 0 3/4")
ralston3 = _named("ralston3", 3, "1/2; 0 3/4", "2/9 1/3 4/9")
ssprk3 = _named("ssprk3", 3, "1; 1/4 1/4", "1/6 1/6 2/3")
rk4 = _named("rk4", 4, "1/2; 0 1/2; 0 0 1", "1/6 1/3 1/3 1/6")
three_eighths = _named("three_eighths", 4, "1/3; -1/3 1; 1 -1 1", "1/8 3/8 3/8 1/8")
butcher6 = _named(
    "butcher6",
    6,
    "1/3; 0 2/3; 1/12 1/3 -1/12; -1/16 9/8 -3/16 -3/8; 0 9/8 -3/8 -3/4 1/2; "
    "9/44 -9/11 63/44 18/11 0 -16/11",
    "11/120 0 27/40 27/40 -4/15 -4/15 11/120",
)
heun_euler = _named("heun_euler", 2, "1", "1/2 1/2", "1 0", 1)
bogacki_shampine = _named(
    "bogacki_shampine", 3, "1/2; 0 3/4; 2/9 1/3 4/9", "2/9 1/3 4/9 0", "7/24 1/4 1/3 1/8", 2
)
fehlberg = _named(
    "fehlberg",
    5,
    "1/4; 3/32 9/32; 1932/2197 -7200/2197 7296/2197; 439/216 -8 3680/513 -845/4104; "
    "-8/27 2 -3544/2565 1859/4104 -11/40",
    "16/135 0 6656/12825 28561/56430 -9/50 2/55",
    "25/216 0 1408/2565 2197/4104 -1/5 0",
    4,
)
cash_karp = _named(
    "cash_karp",
    5,
    "1/5; 3/40 9/40; 3/10 -9/10 6/5; -11/54 5/2 -70/27 35/27; "
    "1631/55296 175/512 575/13824 44275/110592 253/4096",
    "37/378 0 250/621 125/594 0 512/1771",
    "2825/27648 0 18575/48384 13525/55296 277/14336 1/4",
    4,
)
dormand_prince = _named(
    "dormand_prince",
    5,
    "1/5; 3/40 9/40; 44/45 -56/15 32/9; 19372/6561 -25360/2187 64448/6561 -212/729; "
    "9017/3168 -355/33 46732/5247 49/176 -5103/18656; 35/384 0 500/1113 125/192 -2187/6784 11/84",
    "35/384 0 500/1113 125/192 -2187/6784 11/84 0",
    "5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40",
    4,
)
tsit5 = _decimal(
    _named(
        "tsit5",
        5,
        "0.161; -0.008480655492356988544 0.335480655492356988544; "
        "2.897153057105493432130 -6.359448489975074843148 4.362295432869581411018; "
        "5.325864828439256604429 -11.74888356406282787775 7.495539342889836208305 "
        "-0.09249506636175524925651; "
        "5.861455442946420028659 -12.92096931784710929171 8.159367898576158643181 "
        "-0.07158497328140099722453 -0.02826905039406838290900; "
        "0.09646076681806522951817 0.01 0.4798896504144995747753 1.379008574103741893192 "
        "-3.290069515436080679901 2.324710524099773982415",
        "0.09646076681806522951817 0.01 0.4798896504144995747753 1.379008574103741893192 "
        "-3.290069515436080679901 2.324710524099773982415 0",
        "0.09468075576583945807479 0.009183565540343253096776 0.4877705284247615707856 "
        "1.234297566930478985656 -2.707712349983525454882 1.866628418170587035753 1/66",
        4,
    )
)

METHODS: dict[str, Tableau] = {
    tableau.name: tableau
    for tableau in (
        euler,
        midpoint,
        heun,
        ralston,
        kutta3,
        heun3,
        ralston3,
        ssprk3,
        rk4,
        three_eighths,
        butcher6,
        heun_euler,
        bogacki_shampine,
        fehlberg,
        cash_karp,
        dormand_prince,
        tsit5,
    )
}
"""Methods by name. "Modified Euler" is `heun`."""
