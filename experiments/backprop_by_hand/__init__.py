"""Does backpropagation by hand give the printed figures of the worked 2-2-2 example?

The network: two inputs, two sigmoid units, two sigmoid units, eight weights, one bias per layer
that is held fixed, E = Σ ½(t − o)², learning rate 0.5. All of it is computed in float64.

What the text claims, and what was found:

- One forward and one backward pass (A2 to A4): every printed digit is right, but for slips of the
  pen: o1 is 0.751365070 where the text has 0.75136079, and three of the four δ are cut off
  instead of rounded (−0.0380982365, 0.0087713547, 0.0099542547).
- The training curve (A5): E = 0.291027924 after one step and 0.000035085 after 10,000. Gradient
  descent gives 0.291027774 and 0.000035102. The printed figures appear, digit for digit, when the
  hidden deltas go through output weights that were already updated. The text contradicts itself:
  its w1 = 0.149780716 after one step is that of gradient descent; that curve needs 0.149817639.
- A gradient check names the fault that no training curve shows (the wrong one even ends 0.05 %
  lower): w5 to w8 agree with central differences to 1e-13, while w1 and w2 are too small by
  16.84 %, w3 and w4 by 14.88 %.
- The listing (A6) has 0.09 for 0.99 as its second target. Then E starts at 0.508006728 and ends at
  1.8102e-05 with o = (0.01601701, 0.0899783), by the right backward pass.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import jaxdl
from experiments.backprop_by_hand.network import (
    BIASES,
    EDGES,
    INPUT,
    LAYERS,
    LISTING_TARGET,
    LOSS,
    NAMES,
    NET,
    RIGHT,
    TARGET,
    WEIGHTS,
    WRONG,
    feed_forward,
    inspect,
    right_backward,
    to_params,
    to_weights,
    total_error,
    train,
    wrong_backward,
)
from experiments.backprop_by_hand.pictures import draw_curves, draw_network
from experiments.framework.run import Run
from experiments.framework.settings import Above0, Checked, Count
from jaxdl import gradcheck

# Row, what it is, the figure as printed (by the text, or in A5 by us for gradient descent), and
# where the run finds it: a name among its results, and an index.
PRINTED = [
    ("A3", "h1", "0.593269992", "h", 0),
    ("A3", "h2", "0.596884378", "h", 1),
    ("A3", "o1 (printed as 0.75136079: a slip)", "0.751365070", "o", 0),
    ("A3", "o2", "0.772928465", "o", 1),
    ("A3", "E", "0.298371109", "E", None),
    ("A4", "δ of o1", "0.138498562", "delta_o", 0),
    ("A4", "δ of o2 (cut off, not rounded)", "-0.038098236", "delta_o", 1),
    ("A4", "δ of h1 (cut off, not rounded)", "0.008771354", "delta_h", 0),
    ("A4", "δ of h2 (cut off, not rounded)", "0.009954254", "delta_h", 1),
    ("A4", "∂E/∂w5", "0.082167041", "gradient", 4),
    ("A4", "∂E/∂w1", "0.000438568", "gradient", 0),
    ("A4", "w5 after one step", "0.358916480", "weights_after_1", 4),
    ("A4", "w1 after one step", "0.149780716", "weights_after_1", 0),
    ("A5", "Gradient descent: E after 1 step", "0.2910277737", "right_E_after_1", None),
    ("A5", "Gradient descent: E after 10,000", "0.000035102", "right_E_after_all", None),
    ("A5", "Gradient descent: o1 after 10,000", "0.01591362", "right_o", 0),
    ("A5", "Gradient descent: o2 after 10,000", "0.98406427", "right_o", 1),
    ("A5", "The text's E after 1 step is the wrong pass's", "0.291027924", "wrong_E_after_1", None),
    ("A5", "Its E after 10,000 as well", "0.000035085", "wrong_E_after_all", None),
    ("A5", "Its o1 after 10,000 as well", "0.015912196", "wrong_o", 0),
    ("A5", "Its o2 after 10,000 as well", "0.984065734", "wrong_o", 1),
    ("A6", "E before training", "0.508006728", "listing_E_before", None),
    ("A6", "E after 10,000 steps", "0.000018102", "listing_E_after", None),
    ("A6", "o1 after 10,000 steps", "0.01601701", "listing_o", 0),
    ("A6", "o2 after 10,000 steps", "0.0899783", "listing_o", 1),
]


@dataclass(frozen=True)
class Settings(Checked):
    steps: Count = 10_000
    """Steps of training. The printed figures are compared only with the default settings."""
    learning_rate: Above0 = 0.5
    """Factor of the gradient in each step."""


def run(settings: Settings, out: Run) -> None:
    with jax.enable_x64(True):  # nine printed digits are more than float32 has
        found = {}
        for part in (one_step, curves, gradient_check, listing):
            found |= part(settings, out, jnp.array(INPUT), jnp.array(TARGET))
        for name, value in found.items():
            out.result(name, value)
        if settings == Settings():
            compare(out, found)


def nine(value):
    return f"{float(value):.9f}"


def one_step(settings, out, x, target):
    params = to_params(WEIGHTS)
    seen = jaxdl.backprop_trace(NET, LOSS)(params, x, target)
    moved, _ = train(params, x, target, steps=1, rate=settings.learning_rate)
    weights, gradient = to_weights(moved), to_weights(seen.reduced)
    out_of, delta_of = seen.activations, seen.deltas
    out.heading("One forward and one backward pass")
    out.text(
        "Everything here comes from one call of backprop_trace. The activation of a dense layer "
        "is the net input of its units, its delta is δ = ∂E/∂net."
    )
    rows = []
    for unit, layer in LAYERS.items():
        columns = out_of[layer], out_of[unit], delta_of[layer], delta_of[unit]
        rows += [[f"{unit}{j + 1}", *(nine(column[0, j]) for column in columns)] for j in (0, 1)]
    out.table("Units", ["unit", "net", "out", "δ = ∂E/∂net", "∂E/∂out"], rows)
    rows = [
        [name, edge, nine(w), nine(dw), nine(new)]
        for name, edge, w, dw, new in zip(NAMES, EDGES, WEIGHTS, gradient, weights, strict=True)
    ]
    for unit, layer in LAYERS.items():  # one bias for two units: its gradient is their sum
        before, after = (tree[layer]["b"][0] for tree in (params, moved))
        db = seen.reduced[layer]["b"].sum()
        rows.append(["bias", f"{unit}, held", *map(nine, (before, db, after))])
    out.table("Weights", ["weight", "edge", "value", "∂E/∂w", "after one step"], rows)
    out.text(f"E = {seen.value:.9f} before the step.")
    edges = list(zip(NAMES, EDGES, WEIGHTS, gradient, strict=True))
    draw_network(out, seen, x, target, edges, BIASES)
    shown = (seen.activations, seen.deltas, gradient)
    return {
        "E": seen.value,
        "h": out_of["h"][0],
        "o": out_of["o"][0],
        "delta_o": delta_of["output"][0],
        "delta_h": delta_of["hidden"][0],
        "gradient": gradient,
        "weights_after_1": weights,
        "values_shown": sum(int(jnp.isfinite(a).sum()) for a in jax.tree.leaves(shown)),
    }


def curves(settings, out, x, target):
    found, rows, errors = {}, [], {}
    for key, label, backward in (
        ("right", RIGHT, right_backward),
        ("wrong", WRONG, wrong_backward),
    ):
        params, errors[label] = train(
            to_params(WEIGHTS), x, target, settings.steps, settings.learning_rate, backward
        )
        o, first, last = feed_forward(params, x)[0], errors[label][1], errors[label][-1]
        rows.append([label, f"{first:.10f}", nine(last), nine(o[0]), nine(o[1])])
        found |= {f"{key}_E_after_1": first, f"{key}_E_after_all": last, f"{key}_o": o}
        found |= {f"{key}_biases": [params[layer]["b"][0] for layer in LAYERS.values()]}
    rows.append(["printed in the text", "0.291027924", "0.000035085", "0.015912196", "0.984065734"])
    out.heading("Two training curves")
    out.text(
        "Gradient descent takes all gradients at one point and then moves all weights. A loop "
        "that moves the output weights first and then sends the deltas of the hidden units "
        "through these new weights computes something else: δ of unit j is off by "
        "−η·hⱼ²·(1−hⱼ)·Σδₒ². The forward pass never used those weights, so this is no gradient. "
        "The loss falls all the same, and no training curve gives the fault away."
    )
    columns = ["backward pass", "E after 1 step", f"E after {settings.steps:,}", "o1", "o2"]
    out.table("The printed figures belong to the wrong backward pass", columns, rows)
    draw_curves(out, errors)
    return found


def gradient_check(settings, out, x, target):
    error_of = jax.jit(lambda weights: total_error(to_params(weights), x, target))
    weights = np.array(WEIGHTS)
    truth, error = np.transpose(
        [
            gradcheck.slope(lambda t, u=u: float(error_of(weights + t * u)))
            for u in np.eye(len(weights))
        ]
    )
    rows = [[n, f"{t:.12f}", f"{e:.0e}"] for n, t, e in zip(NAMES, truth, error, strict=True)]
    named = {RIGHT: [], WRONG: []}
    for label, backward in ((RIGHT, right_backward), (WRONG, wrong_backward)):
        _, gradient = backward(to_params(WEIGHTS), x, target, settings.learning_rate)
        off = np.asarray(to_weights(gradient)) - truth
        for row, name, relative, is_wrong in zip(
            rows, NAMES, off / truth, abs(off) > 10 * error, strict=True
        ):
            row.append(f"{relative:+.2%}, wrong" if is_wrong else f"{relative:+.0e}")
            named[label] += [name] * bool(is_wrong)
    out.heading("What a gradient check says")
    out.text(
        "Each weight is moved a little up and down, at nine step sizes, and the differences of E "
        "are extrapolated to step 0; the error of that figure is estimated, not assumed. A "
        "gradient is wrong if it is off by more than ten times this error."
    )
    columns = ["weight", "∂E/∂w by differences", "error", RIGHT, WRONG]
    out.table("Gradients by hand, relative to the numerical one", columns, rows)
    out.text(
        f"Wrong in gradient descent: {', '.join(named[RIGHT]) or 'none'}. Wrong through updated "
        f"weights: {', '.join(named[WRONG]) or 'none'}. It is the layer whose deltas came through "
        "the wrong weights; the layer whose weights moved too early is itself in order."
    )
    return {"wrong_in_gradient_descent": named[RIGHT], "wrong_through_updated": named[WRONG]}


def listing(settings, out, x, target):
    target, params = jnp.array(LISTING_TARGET), to_params(WEIGHTS)
    trained, errors = train(params, x, target, settings.steps, settings.learning_rate)
    o = feed_forward(trained, x)[0]
    out.heading("The article's network object, as pure functions")
    out.text(
        "The listing's target is (0.01, 0.09), a typing error for 0.99. feed_forward, "
        "total_error, train and inspect take the parameters and change nothing; this is what "
        f"inspect says before training and after {settings.steps:,} steps."
    )
    out.text(inspect(params, x, target), mono=True)
    out.text(inspect(trained, x, target), mono=True)
    return {"listing_E_before": errors[0], "listing_E_after": errors[-1], "listing_o": o}


def compare(out, found):
    """Hold every printed figure against what was computed: right if rounded, or cut off."""
    n, biases = found["values_shown"], tuple(map(float, found["right_biases"]))
    right, wrong = found["wrong_in_gradient_descent"], found["wrong_through_updated"]
    claims = [
        ("A2", "One trace shows net, out, both deltas and ∂E/∂w of all units", 24, n, n == 24),
        ("A2", "The biases are not updated", BIASES, biases, biases == BIASES),
        ("A5", "Check of gradient descent: wrong are", "none", right or "none", not right),
        ("A5", "Check of the printed curve's: wrong are", NAMES[:4], wrong, wrong == NAMES[:4]),
    ]
    for row, what, figure, name, index in PRINTED:
        value = float(found[name] if index is None else found[name][index])
        digits = len(figure.split(".")[1])
        cut = np.trunc(value * 10**digits) / 10**digits
        same = figure in (f"{value:.{digits}f}", f"{cut:.{digits}f}")
        claims.append((row, what, figure, f"{value:.{digits + 2}f}", same))
    for entry in sorted(claims, key=lambda entry: entry[0]):
        out.claim(*entry)
