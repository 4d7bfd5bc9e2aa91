"""The posterior report shows verdict, reasons, worst parameters and cost."""

import numpy as np

from probjax.experiments import posterior_report
from probjax.mcmc.kernels import InfoView


def row(name, ess, **more):
    numbers = {"mean": 1.5, "sd": 2.0, "q05": -1.0, "q50": 1.25, "q95": 4.0, "rhat": 1.003}
    return {"name": name, **numbers, "bulk_ess": ess, "tail_ess": 432.1, "mcse": 0.05, **more}


FOUND = {
    "posterior": "toy", "about": "A toy.", "truth_from": "a book",
    "config": {"sampler": "nuts", "precision": "float32"},
    "size": {"num_chains": 4, "num_warmup": 50, "num_steps": 30},
    "gate": {
        "verdict": "review", "reasons": ["bulk_ess is 321, below 400"],
        "checks": {
            "bulk_ess": {"value": 321.0, "pass": 400.0, "review": 100.0, "verdict": "review"},
            "e_bfmi": {"value": None, "pass": 0.3, "review": 0.2, "verdict": None},
        },
    },
    "parameters": [row("a", 900.0, truth=1.4, z=2.0), row("b", 321.0, truth=1.5, z=-0.5)],
    "counts": {"divergent": 3.0, "nonfinite": 0.0, "acceptance_rate": 0.81, "steps": 120.0},
    "warmup": {"step_size": 0.25, "starts": {"paths": 3, "pareto_k": 0.456}},
    "cost": {
        "min_ess": 321.0, "gradients": {"warmup": 1000.0, "sampling": 4000.0},
        "seconds": {"warmup": 75.0, "sampling": 4.0, "steady": 2.0}, "ess_per_gradient": 0.08025,
        "ess_per_gradient_with_warmup": 0.0642, "ess_per_second": 160.5,
        "ess_per_second_with_warmup_and_compilation": 4.063,
    },
    "sha256": {"draws": "d" * 64},
    "environment": {
        "probjax": "0.1.0", "jax": "0.10", "python": "3.11", "device": "cpu", "devices": 2,
        "backend": "cpu", "processes": 1,
    },
}  # fmt: skip


def test_everything_found_is_shown():
    draws = np.random.default_rng(0).normal(size=(4, 30, 2))
    flags = np.zeros((4, 30), bool)
    info = InfoView(flags * 1.0, ~flags, flags, flags, flags * 1.0, flags * 1.0)
    html = posterior_report.render(FOUND, draws, info)
    for part in (
        "<title>toy: review</title>", "bulk_ess is 321, below 400", "held against a book",
        "3 of 120 steps diverged", "not told by this sampler", "1 min 15 s", "0.08025", "160.5",
        "known mean", "d" * 16, "ends of 3 paths, Pareto k 0.46",
    ):  # fmt: skip
        assert part in html, part
    assert html.count("data:image/svg+xml") == 2 and "http" not in html


def test_ranks_of_chains_that_differ():
    values = np.stack([np.arange(10.0), np.arange(10.0) + 0.5, np.arange(10.0) + 100])
    heights = posterior_report.ranks(values, 3)
    np.testing.assert_allclose(heights.sum(axis=0), 3)
    np.testing.assert_allclose(heights[2], [0, 0, 3])


def test_the_pair_plot_shows_divergent_steps():
    draws = np.random.default_rng(0).normal(size=(2, 20, 3))
    flags = np.zeros((2, 20), bool)
    flags[1, 4] = True
    figure = posterior_report.pairs(["a", "b", "c"], draws, flags, [0, 2])
    crosses = figure.axes[2].get_lines()[1]
    assert crosses.get_xydata().tolist() == [[draws[1, 4, 0], draws[1, 4, 2]]]
