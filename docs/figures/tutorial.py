"""The figure of `docs/tutorial.md`, from the code of that page: steps 4 and 8 once more."""

import doctest
import re

import figure
import jax
import matplotlib.pyplot as plt

PAGE = figure.ASSETS.parent / "tutorial.md"


def names_of_the_page() -> dict:
    """Run the page's code, outputs ignored, and return what it defined."""
    jax.config.update("jax_num_cpu_devices", 8)
    text = re.sub(r"(?m)^```.*$", "", PAGE.read_text())
    found: dict = {}
    for example in doctest.DocTestParser().get_examples(text):
        exec(compile(example.source, str(PAGE), "exec"), found)
    return found


def main() -> None:
    """Draw first steps, draws by the density, and draws by the learned score."""
    page = names_of_the_page()
    drawing, axes = plt.subplots(1, 3, figsize=(10.4, 3.7))
    axes[0].plot(page["load"](page["whole"])[:8, :60, 0].T, linewidth=1.2)
    axes[0].set(title="eight chains, first steps", xlabel="step", ylabel="$x_0$")
    samples = (
        (page["few"], "by the density", figure.BLUE),
        (
            page["learned"],
            "by the learned score",
            figure.ORANGE,
        ),
    )
    for axis, (sample, title, colour) in zip(axes[1:], samples, strict=True):
        axis.plot(*page["truth"].T, ".", color=figure.INK, markersize=3, alpha=0.5, label="exact")
        axis.plot(*sample.T, ".", color=colour, markersize=3, label="sampled")
        axis.set(title=title, xlabel="$x_0$", xlim=(-4, 4), ylim=(-2, 8))
        axis.legend(loc="upper center", markerscale=3)
    figure.save(drawing, "tutorial")


if __name__ == "__main__":
    main()
