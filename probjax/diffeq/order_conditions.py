r"""Order conditions of Runge-Kutta methods by rooted trees.

The $q$-th derivative of a solution of $y'=f(y)$ is a sum of *elementary differentials*, one for
each rooted tree with $q$ nodes. A method has order $p$ where its elementary weight equals
$1/\gamma(\tau)$ for every tree $\tau$ with at most $p$ nodes. A tree is the tuple of the trees
that hang on its root: `()` is the single node.

>>> rooted_trees(3)
(((), ()), (((),),))
>>> [len(rooted_trees(order)) for order in range(1, 10)]
[1, 1, 2, 4, 9, 20, 48, 115, 286]
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

from probjax.core import checks

Tree = tuple[Any, ...]
"""A rooted tree: the tuple of its root's subtrees, in canonical order."""

Number = Fraction | float
"""A coefficient: exact, or a decimal."""

DECIMAL_TOLERANCE = 1e-13
"""Residual that still counts as zero where coefficients are decimals."""


@runtime_checkable
class Coefficients(Protocol):
    """What the conditions ask of a tableau: `tableaus.Tableau` has it."""

    a: tuple[tuple[Number, ...], ...]
    """Row `i` holds the weights of the stages before stage `i`."""
    b: tuple[Number, ...]
    """Weights of the stages in the result."""
    b_hat: tuple[Number, ...] | None
    """Weights in a second result."""
    exact: bool
    """Whether all are rationals."""


def _size(tree: Tree) -> int:
    return 1 + sum(_size(child) for child in tree)


def _rank(tree: Tree) -> tuple[int, Tree]:
    return _size(tree), tree


@functools.cache
def rooted_trees(order: int) -> tuple[Tree, ...]:
    """Return all rooted trees with `order` nodes.

    Args:
        order: number of nodes, at least 1.

    Returns:
        Nested tuples, each tree once; children stand from large to small.

    Raises:
        ValueError: `order` is below 1.

    Example:
        >>> rooted_trees(2)
        (((),),)
    """
    checks.at_least("order", order, 1)

    def forests(nodes: int, largest: int, start: int) -> Iterator[Tree]:
        if nodes == 0:
            yield ()
        for size in range(1, min(nodes, largest) + 1):
            trees = rooted_trees(size)
            first = start if size == largest else 0
            for i in range(first, len(trees)):
                for rest in forests(nodes - size, size, i):
                    yield (trees[i], *rest)

    return tuple(forests(order - 1, order - 1, 0))


def density(tree: Tree) -> int:
    r"""Return $\gamma(\tau)$: the product, over all nodes, of the size of the subtree there.

    Args:
        tree: a rooted tree.

    Returns:
        The product, at least 1.

    Example:
        >>> density(((),)), density(((), ())), density((((),),))
        (2, 3, 6)
    """
    return _size(tree) * math.prod(density(child) for child in tree)


def symmetry(tree: Tree) -> int:
    r"""Return $\sigma(\tau)$: in how many ways equal branches can change places.

    Args:
        tree: a rooted tree.

    Returns:
        The number of ways, at least 1.

    Example:
        >>> symmetry(((), (), ())), symmetry((((),), ()))
        (6, 1)
    """
    counts = Counter(tree)
    return math.prod(math.factorial(n) * symmetry(child) ** n for child, n in counts.items())


def num_labellings(tree: Tree) -> int:
    r"""Return $\alpha(\tau)=q!/(\sigma\gamma)$: how often the tree stands in $y^{(q)}$.

    Args:
        tree: a rooted tree with $q$ nodes.

    Returns:
        The count, at least 1.

    Example:
        >>> [num_labellings(tree) for tree in rooted_trees(4)]
        [1, 3, 1, 1]
    """
    return math.factorial(_size(tree)) // (symmetry(tree) * density(tree))


def elementary_weight(tree: Tree, tableau: Coefficients, *, embedded: bool = False) -> Number:
    r"""Return the elementary weight of a tree.

    $$\Phi(\tau)=\sum_i b_i\prod_{\tau'\in\tau}\Phi_i(\tau'),\qquad
      \Phi_i(\tau)=\sum_j a_{ij}\prod_{\tau'\in\tau}\Phi_j(\tau')$$

    Args:
        tree: a rooted tree.
        tableau: the method.
        embedded: take the weights `b_hat` for `b`.

    Returns:
        A `Fraction` where the tableau is exact, else a float.

    Raises:
        ValueError: `embedded` without embedded weights.

    Example:
        >>> from probjax.diffeq import tableaus
        >>> elementary_weight(((), ()), tableaus.heun)
        Fraction(1, 2)
    """
    return _weight(tree, tableau.a, _chosen(tableau, embedded), {}, tableau.exact)


def order_residuals(
    tableau: Coefficients, order: int, *, embedded: bool = False
) -> dict[Tree, Number]:
    r"""Return $\Phi(\tau)-1/\gamma(\tau)$ for every tree with at most `order` nodes.

    Args:
        tableau: the method.
        order: the largest number of nodes.
        embedded: as for `elementary_weight`.

    Returns:
        A dictionary from trees to residuals, smaller trees first.

    Raises:
        ValueError: `order` is below 1, or `embedded` without embedded weights.

    Example:
        >>> from probjax.diffeq import tableaus
        >>> print(*order_residuals(tableaus.midpoint, 3).values())
        0 0 -1/12 -1/6
    """
    checks.at_least("order", order, 1)
    weights, cache = _chosen(tableau, embedded), {}
    trees = itertools.chain.from_iterable(rooted_trees(q) for q in range(1, order + 1))
    return {
        tree: _weight(tree, tableau.a, weights, cache, tableau.exact) - _share(tree, tableau.exact)
        for tree in trees
    }


def first_violation(
    tableau: Coefficients, order: int, *, embedded: bool = False
) -> tuple[Tree, Number] | None:
    """Return the first order condition that fails.

    Args:
        tableau: the method.
        order: the order that is claimed.
        embedded: as for `elementary_weight`.

    Returns:
        The tree and its residual; `None` where all conditions up to `order` hold: exactly, or to
        `DECIMAL_TOLERANCE` where the tableau is not exact.

    Example:
        >>> from probjax.diffeq import tableaus
        >>> first_violation(tableaus.rk4, 4) is None
        True
        >>> first_violation(tableaus.heun, 3)
        (((), ()), Fraction(1, 6))
    """
    weights, cache = _chosen(tableau, embedded), {}
    tolerance = 0 if tableau.exact else DECIMAL_TOLERANCE
    for nodes in range(1, order + 1):
        for tree in rooted_trees(nodes):
            weight = _weight(tree, tableau.a, weights, cache, tableau.exact)
            residual = weight - _share(tree, tableau.exact)
            if not abs(residual) <= tolerance:
                return tree, residual
    return None


def tableau_order(tableau: Coefficients, *, embedded: bool = False) -> int:
    """Return the order of a method: the largest for which every condition holds.

    Args:
        tableau: the method; explicit, so that its order is at most its number of stages.
        embedded: as for `elementary_weight`.

    Returns:
        The order, 0 where the weights do not even sum to 1.

    Example:
        >>> from probjax.diffeq import tableaus
        >>> tableau_order(tableaus.fehlberg), tableau_order(tableaus.fehlberg, embedded=True)
        (5, 4)
    """
    stages = len(tableau.b)
    violation = first_violation(tableau, stages, embedded=embedded)
    return stages if violation is None else _size(violation[0]) - 1


def principal_error(tableau: Coefficients, *, embedded: bool = False) -> float:
    r"""Return the size of the leading error term.

    $$\Big(\sum_{|\tau|=p+1}\Big(\frac{\Phi(\tau)-1/\gamma(\tau)}{\sigma(\tau)}\Big)^2\Big)^{1/2}$$

    with $p$ the order of the method. It compares methods of one order and of as many stages.

    Args:
        tableau: the method.
        embedded: as for `elementary_weight`.

    Returns:
        The norm of the residuals of the first order that fails.

    Example:
        >>> from probjax.diffeq import tableaus
        >>> print(f"{principal_error(tableaus.rk4):.6f}")
        0.014505
    """
    order = tableau_order(tableau, embedded=embedded) + 1
    residuals = order_residuals(tableau, order, embedded=embedded)
    return math.hypot(*(float(residuals[tree]) / symmetry(tree) for tree in rooted_trees(order)))


def _chosen(tableau: Coefficients, embedded: bool) -> tuple[Number, ...]:
    if not embedded:
        return tableau.b
    if tableau.b_hat is None:
        raise ValueError("embedded weights were asked for, but b_hat is None")
    return tableau.b_hat


def _share(tree: Tree, exact: bool) -> Number:
    return Fraction(1, density(tree)) if exact else 1.0 / density(tree)


def _add(terms: Iterator[Number], exact: bool) -> Number:
    return sum(terms, Fraction(0)) if exact else math.fsum(terms)


def _weight(tree: Tree, a: Any, b: Any, cache: dict[Tree, Any], exact: bool) -> Number:
    return _add((x * y for x, y in zip(b, _stages(tree, a, cache, exact), strict=True)), exact)


def _stages(tree: Tree, a: Any, cache: dict[Tree, Any], exact: bool) -> list[Number]:
    """Product over the branches of the root, at every stage."""
    if tree not in cache:
        product: list[Number] = [Fraction(1) if exact else 1.0] * len(a)
        for child in tree:
            below = _stages(child, a, cache, exact)
            for i, row in enumerate(a):
                inner = _add((x * y for x, y in zip(row, below, strict=False)), exact)
                product[i] = product[i] * inner
        cache[tree] = product
    return cache[tree]
