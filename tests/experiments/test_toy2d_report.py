"""The toy report shows the table with its errors, the cost, and four panels for each density."""

import numpy as np

from probjax.experiments import toy2d, toy2d_quality, toy2d_report


def found():
    cells = [
        {
            "density": density, "objective": objective, "label": label, "noise_scale": noise,
            "common_noise": 0.1 if density == "checkerboard" else 0.0, "fit_seconds": 12.5,
            "own": {"mean": 0.1234, "se": 0.0056}, "common": {"mean": 1.6543, "se": 0.0321},
            "zero": {"mean": 7.7512, "se": 0.0311}, "common_zero": {"mean": 7.75, "se": 0.03},
            "values": [0.118, 0.129],
        }
        for density in ("eight_gaussians", "checkerboard")
        for objective, label, noise in (("ism", "ism", None), ("dsm", "dsm 0.3", 0.3))
    ]  # fmt: skip
    gate = toy2d_quality.verdict(cells, anchors={"eight_gaussians/ism": (0.05, 0.01)})
    return {
        "config": {
            "densities": ["eight_gaussians", "checkerboard"], "objectives": ["ism", "dsm"],
            "seeds": 2, "fit": {"num_steps": 3000, "batch_size": 256, "widths": [128, 128]},
            "draw": {"objective": "fd_ssm"},
        },
        "gate": gate, "cells": cells, "cost": {"ism": 3.01, "dsm": 1.02}, "seconds": 75.0,
        "sha256": {"drawn": "a" * 64},
        "environment": {
            "probjax": "0.1.0", "jax": "0.10", "python": "3.11", "device": "cpu", "devices": 2,
            "backend": "cpu", "processes": 1,
        },
    }  # fmt: skip


def parts():
    rng = np.random.default_rng(0)
    return {
        "data": rng.normal(size=(30, 2)), "langevin": rng.normal(size=(30, 2)),
        "energy": rng.uniform(size=(21, 21)), "field": 50 * rng.normal(size=(21, 21, 2)),
    }  # fmt: skip


def test_everything_found_is_shown():
    html = toy2d_report.render(found(), {"eight_gaussians": parts(), "checkerboard": parts()})
    for part in (
        "<title>Toy densities: review</title>", "above the anchor 0.05", "0.1234 ± 0.0056",
        "1.654 ± 0.032", "7.751 ± 0.031", "checkerboard by 0.1", "3.01", "12.5", "1 min 15 s",
        "Models of ISM", "a" * 16,
    ):  # fmt: skip
        assert part in html, part
    assert html.count("data:image/svg+xml") == 2 and "http" not in html


def test_a_number_that_is_not_finite_is_said_to_be():
    record = found()
    record["cells"][0]["own"] = {"mean": float("nan"), "se": float("nan")}
    header, rows = toy2d_report.table_of(record, "own")
    assert header == ["objective", "eight Gaussians", "checkerboard"]
    assert [row[0] for row in rows] == ["ism", "dsm 0.3", "a score of zero"]
    assert rows[0][1] == "not finite" and rows[0][2] == "0.1234 ± 0.0056"


def test_panels_have_the_square_and_arrows_are_cut():
    figure = toy2d_report.draw_panels(parts())
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["data", "Langevin samples", "energy", "score"]
    width = toy2d.model.HALF_WIDTH
    assert all(axis.get_xlim() == (-width, width) for axis in figure.axes)
    arrows = figure.axes[3].collections[0]
    assert np.hypot(arrows.U, arrows.V).max() < 6.01
