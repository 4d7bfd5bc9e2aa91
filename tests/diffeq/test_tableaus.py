from fractions import Fraction

import numpy as np
import pytest

from probjax.diffeq import tableaus
from probjax.diffeq.tableaus import Tableau, as_tableau, make_tableau, rk2

RK4 = ([["1/2"], [0, "1/2"], [0, 0, 1]], ["1/6", "1/3", "1/3", "1/6"])


def test_all_layouts_of_a_mean_the_same():
    rows, b = RK4
    square = [[0] * 4, ["1/2", 0, 0, 0], [0, "1/2", 0, 0], [0, 0, 1, 0]]
    for a in (rows, [[], *rows], square):
        assert make_tableau(a, b, order=4, name="rk4") == tableaus.rk4


def test_named_methods_say_what_they_are():
    for name, tableau in tableaus.METHODS.items():
        assert isinstance(tableau, Tableau) and tableau.name == name
        assert getattr(tableaus, name) is tableau
        assert [len(row) for row in tableau.a] == list(range(tableau.num_stages))
        assert tableau.exact == (name != "tsit5")
        assert (tableau.b_hat is None) == (tableau.embedded_order is None)
        if tableau.exact:
            again = make_tableau(
                tableau.a, tableau.b, b_hat=tableau.b_hat, order=tableau.order, name=name
            )
            assert again == tableau
    assert as_tableau("tsit5") is tableaus.tsit5
    fsal = {name for name, tableau in tableaus.METHODS.items() if tableau.fsal}
    assert fsal == {"bogacki_shampine", "dormand_prince", "tsit5"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("heun_euler", "Heun"),
        ("midpoint", "Midpoint"),
        ("ralston", "Ralston"),
        ("bogacki_shampine", "Bosh3"),
        ("dormand_prince", "Dopri5"),
        ("tsit5", "Tsit5"),
    ],
)
def test_coefficients_are_those_of_diffrax(ours, theirs):
    diffrax = pytest.importorskip("diffrax")
    tableau, other = tableaus.METHODS[ours], getattr(diffrax, theirs).tableau
    eps = np.finfo(float).eps
    for row, expected in zip(tableau.a[1:], other.a_lower, strict=True):
        np.testing.assert_allclose(np.array(row, float), expected, rtol=eps, atol=eps)
    np.testing.assert_allclose(np.array(tableau.b, float), other.b_sol, rtol=eps, atol=eps)
    np.testing.assert_allclose(np.array(tableau.c[1:], float), other.c, rtol=1e-13)
    if tableau.b_hat is not None:
        difference = np.array(tableau.b, float) - np.array(tableau.b_hat, float)
        # diffrax takes the other sign for Heun, and other weights for Dormand and Prince, whose
        # difference is two thirds of the published one.
        difference *= {"Heun": -1, "Dopri5": 2 / 3}.get(theirs, 1)
        np.testing.assert_allclose(difference, other.b_error, rtol=1e-13, atol=2 * eps)


def test_rk2_names_its_members():
    assert rk2(1)._replace(name="heun") == tableaus.heun
    assert rk2("2/3")._replace(name="ralston") == tableaus.ralston
    assert not rk2(0.3).exact and rk2(0.3).order == 2
    with pytest.raises(ValueError, match="alpha must not be zero"):
        rk2(0)


def mutants():
    """Deliberate errors in RK4 and in Dormand-Prince."""
    rows, b = RK4
    dp = tableaus.dormand_prince
    near = [list(row) for row in dp.a]
    near[4][2] += Fraction(1, 10**6)
    decimals = [[float(Fraction(x)) for x in row] for row in rows]
    decimals[1][0] += 1e-6
    difference = [x - y for x, y in zip(dp.b, dp.b_hat, strict=True)]
    return {
        "order one too high": {"a": rows, "b": b, "order": 5},
        "embedded order one too high": {
            "a": dp.a,
            "b": dp.b,
            "b_hat": dp.b_hat,
            "order": 5,
            "embedded_order": 5,
        },
        "weights swapped": {"a": rows, "b": ["1/3", "1/6", "1/3", "1/6"], "order": 4},
        "stages swapped": {"a": [["1/2"], ["1/2", 0], [0, 0, 1]], "b": b, "order": 4},
        "sign flipped": {"a": [["1/2"], [0, "-1/2"], [0, 0, 1]], "b": b, "order": 4},
        "off by 1e-6, exactly": {"a": near, "b": dp.b, "order": 5},
        "off by 1e-6, in floats": {"a": decimals, "b": [1 / 6, 1 / 3, 1 / 3, 1 / 6], "order": 4},
        "b_hat is the difference": {"a": dp.a, "b": dp.b, "b_hat": difference, "order": 5},
        "c off by a row": {"a": rows, "b": b, "c": ["1/2", "1/2", 1, 0], "order": 4},
    }


@pytest.mark.parametrize("name", mutants())
def test_mutants_are_refused(name):
    with pytest.raises(ValueError, match=r"is claimed, but the tree|c\[0\] must be the sum"):
        make_tableau(**mutants()[name])


def test_the_refusal_names_tree_and_residual():
    with pytest.raises(ValueError, match=r"order=3 .* tree \(\(\), \(\)\) .* residual 1/6"):
        make_tableau([[1]], ["1/2", "1/2"], order=3)


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="row 2 of a must have 2 entries, got 1"):
        make_tableau([[1], [1]], [1, 0, 0], order=1)
    with pytest.raises(ValueError, match="strictly lower triangular.*diffrax"):
        make_tableau([["1/2"]], [1], order=1)
    with pytest.raises(ValueError, match="b_hat must have 2 entries"):
        make_tableau([[1]], ["1/2", "1/2"], b_hat=[1], order=2)
    with pytest.raises(ValueError, match="embedded_order=1 needs b_hat"):
        make_tableau([[1]], ["1/2", "1/2"], order=2, embedded_order=1)
    with pytest.raises(ValueError, match="order must be at least 1"):
        make_tableau([], [1], order=0)
    with pytest.raises(ValueError, match="method must be one of 'euler'"):
        as_tableau("rk5")
