import itertools
import math
from fractions import Fraction

import pytest

from probjax.diffeq import tableaus
from probjax.diffeq.order_conditions import (
    density,
    elementary_weight,
    first_violation,
    num_labellings,
    order_residuals,
    principal_error,
    rooted_trees,
    symmetry,
    tableau_order,
)


def canonical(parents):
    """The tree of a list of parents, node 0 being the root."""
    children = {i: [] for i in range(len(parents) + 1)}
    for node, parent in enumerate(parents, start=1):
        children[parent].append(node)

    def build(node):
        parts = [build(child) for child in children[node]]
        return tuple(sorted(parts, key=lambda t: (size(t), t), reverse=True))

    return build(0)


def size(tree):
    return 1 + sum(size(child) for child in tree)


def sorted_tree(tree):
    parts = [sorted_tree(child) for child in tree]
    return tuple(sorted(parts, key=lambda t: (size(t), t), reverse=True))


def test_counts_are_those_of_the_books():
    counts = [len(rooted_trees(order)) for order in range(1, 10)]
    assert counts == [1, 1, 2, 4, 9, 20, 48, 115, 286]
    for order in range(1, 8):
        assert len({sorted_tree(t) for t in rooted_trees(order)}) == counts[order - 1]
        assert {size(t) for t in rooted_trees(order)} == {order}


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6])
def test_labellings_by_enumeration(order):
    """Each way to hang node k on an earlier node is one monotone labelling."""
    found = {}
    for parents in itertools.product(*(range(k) for k in range(1, order))):
        tree = canonical(parents)
        found[tree] = found.get(tree, 0) + 1
    ours = {sorted_tree(tree): num_labellings(tree) for tree in rooted_trees(order)}
    assert ours == found
    assert sum(ours.values()) == math.factorial(order - 1)


def test_density_and_symmetry_by_hand():
    # A root with two branches, each carrying two leaves: 7 * 3 * 3 and 2 * 2 * 2.
    tree = (((), ()), ((), ()))
    assert (density(tree), symmetry(tree)) == (63, 8)
    # A root with a chain of two, a chain of two and a leaf.
    tree = (((),), ((),), ())
    assert (density(tree), symmetry(tree)) == (6 * 2 * 2, 2)


@pytest.mark.parametrize("name", tableaus.METHODS)
def test_orders_are_proved(name):
    tableau = tableaus.METHODS[name]
    pairs = [(False, tableau.order)]
    if tableau.b_hat is not None:
        pairs.append((True, tableau.embedded_order))
    for embedded, order in pairs:
        residuals = order_residuals(tableau, order, embedded=embedded)
        if tableau.exact:
            assert all(r == Fraction(0) for r in residuals.values())
            assert all(isinstance(r, Fraction) for r in residuals.values())
        else:
            assert max(map(abs, residuals.values())) <= 1e-13
        beyond = order_residuals(tableau, order + 1, embedded=embedded)
        assert any(abs(r) > 1e-6 for r in beyond.values())
        assert tableau_order(tableau, embedded=embedded) == order
        assert first_violation(tableau, order + 1, embedded=embedded) is not None


def test_the_family_of_order_two_in_alpha():
    for alpha in [Fraction(p, q) for p in (-3, 1, 2, 5) for q in (1, 2, 3, 7)]:
        tableau = tableaus.rk2(alpha)
        residuals = order_residuals(tableau, 3)
        assert residuals[((),)] == residuals[()] == 0
        assert residuals[((), ())] == alpha / 2 - Fraction(1, 3)
        assert residuals[(((),),)] == Fraction(-1, 6)
        norm = math.sqrt((alpha / 4 - Fraction(1, 6)) ** 2 + Fraction(1, 36))
        assert math.isclose(principal_error(tableau), norm, rel_tol=1e-14)


def test_principal_errors_that_are_known():
    known = {
        "rk4": 0.014505,
        "three_eighths": 0.012669,
        "dormand_prince": 3.991e-4,
        "heun": 0.1863,
        "midpoint": 0.1718,
        "ralston": 1 / 6,
    }
    for name, value in known.items():
        assert math.isclose(principal_error(tableaus.METHODS[name]), value, rel_tol=3e-4)


@pytest.mark.slow
def test_diffrax_dopri8_stands_the_same_proof():
    diffrax = pytest.importorskip("diffrax")
    theirs = diffrax.Dopri8.tableau
    a = [[float(x) for x in row] for row in theirs.a_lower]
    b = [float(x) for x in theirs.b_sol]
    tableau = tableaus.make_tableau(a, b, order=8, name="dopri8")
    assert max(map(abs, order_residuals(tableau, 8).values())) <= 1e-13
    assert tableau_order(tableau) == 8


def test_a_scalar_equation_hides_the_order():
    """b c^2 fails, which a linear scalar equation cannot see: all its trees are tall."""
    method = tableaus.make_tableau([["1/2"], [0, 1]], ["1/3", "1/3", "1/3"], order=2)
    assert elementary_weight(((), ()), method) == Fraction(5, 12)
    assert elementary_weight((((),),), method) == Fraction(1, 6)
    assert first_violation(method, 3) == (((), ()), Fraction(5, 12) - Fraction(1, 3))


def test_embedded_weights_must_be_there():
    with pytest.raises(ValueError, match="b_hat is None"):
        order_residuals(tableaus.rk4, 2, embedded=True)
    with pytest.raises(ValueError, match="order must be at least 1"):
        rooted_trees(0)
