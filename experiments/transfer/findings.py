"""Claims and the figure of the transfer experiment."""

import numpy as np
from matplotlib import pyplot as plt

from experiments.framework.drawing import open_graphs

STYLES = {
    "from scratch": ("#555555", "-"),
    "fine-tuned": ("#2f7d4f", "-"),
    "fine-tuned, convolutions alone": ("#8a6d1f", "-"),
    "frozen convolutions": ("#2b5c8a", "-"),
    "frozen random convolutions": ("#2b5c8a", ":"),
    "frozen trunk": ("#a3331c", "-"),
    "frozen random trunk": ("#a3331c", ":"),
}


def in_words(rate, share):
    return f"{rate:g}" if share == 1 else f"{rate:g}, pretrained {rate * share:g}"


def gains(sizes, accuracy, method, against):
    """Mean gain in points at each size, and its standard error over subsets."""
    d = [100 * (accuracy[method, n] - accuracy[against, n]) for n in sizes]
    return [(v.mean(), v.std() / max(len(v) - 1, 1) ** 0.5) for v in d]


def claims(out, sizes, accuracy):
    def words(found):
        pairs = zip(sizes, found, strict=True)
        return "; ".join(f"{n:,}: {mean:+.1f} ± {error:.1f}" for n, (mean, error) in pairs)

    def sure(found):
        return all(mean > 2 * error and mean > 0 for mean, error in found)

    expected = "above 0 by more than 2 standard errors at every size"
    for method, against, text in [
        ("fine-tuned", "from scratch", "Pretraining on clothes, then fine-tuning everything, reads "
         "digits better than training from scratch"),
        ("fine-tuned, convolutions alone", "from scratch", "Pretrained convolutions, fine-tuned "
         "with new dense layers, read digits better than training from scratch"),
        ("frozen convolutions", "from scratch", "Pretrained convolutions, frozen, with new dense "
         "layers read digits better than training from scratch"),
        ("frozen trunk", "from scratch", "A pretrained trunk, frozen, with a new last layer reads "
         "digits better than training from scratch"),
        ("frozen convolutions", "frozen random convolutions", "It is the pretraining: frozen "
         "convolutions are better pretrained than random"),
        ("frozen trunk", "frozen random trunk", "It is the pretraining: a frozen trunk is better "
         "pretrained than random"),
    ]:  # fmt: skip
        found = gains(sizes, accuracy, method, against)
        claim = f"{text} (points of test accuracy, by number of digits)"
        out.claim("A8", claim, expected, words(found), sure(found))
    if len(sizes) > 1:
        found = gains(sizes, accuracy, "fine-tuned", "from scratch")
        claim = "The gain by fine-tuning is smaller with the most digits than with the fewest"
        out.claim("A8", claim, "smaller", words(found), bool(found[-1][0] < found[0][0]))


def draw(out, sizes, accuracy):
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4))
    for i, (method, (color, line)) in enumerate(STYLES.items()):
        found = [100 * accuracy[method, n] for n in sizes]
        x = np.array(sizes) * 1.06 ** (i - 3)  # side by side, so that bars can be told apart
        style = {"marker": "o", "ms": 4, "capsize": 3, "color": color, "ls": line}
        left.errorbar(x, [v.mean() for v in found], yerr=[v.std() for v in found], **style)
        if method == "from scratch":
            right.axhline(0, color=color, label=method)
        else:
            means, errors = zip(*gains(sizes, accuracy, method, "from scratch"), strict=True)
            right.errorbar(x, means, yerr=2 * np.array(errors), label=method, **style)
    left.set(ylabel="test accuracy, %", ylim=(0, 100))
    right.set(ylabel="gain over training from scratch, points")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="digits to train on")
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.minorticks_off()
        open_graphs(axes, grid=True)
    fig.legend(frameon=False, loc="upper center", ncols=4, handlelength=3, fontsize=9)
    fig.tight_layout(rect=(0, 0, 1, 0.88))
    caption = (
        "Left: test accuracy on digits; bars are standard deviations over subsets. Right: what "
        "each method gains over training from scratch on the same subsets; bars are two standard "
        "errors."
    )
    out.figure("accuracy", fig, caption)
