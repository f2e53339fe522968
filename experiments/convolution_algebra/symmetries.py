"""Part of `convolution_algebra`: what a convolution commutes with, and what it does not."""

import numpy as np
from scipy import ndimage

from experiments.convolution_algebra import pictures
from experiments.convolution_algebra.filtering import filtered
from experiments.framework.precision import EXACT, relative


def equivariance(out, random, x):
    """f(g(x)) against g(f(x)) for f a filter and g a movement, where no border has a part in it."""
    gauss = np.exp(-((np.arange(5) - 2.0) ** 2) / 2)
    kernels = {
        "random": random.normal(size=(5, 5)),
        "vertical edges": np.outer([1.0, 2, 3, 2, 1], [-1.0, -1, 0, 1, 1]),
        "round (Gaussian)": np.outer(gauss, gauss) / gauss.sum() ** 2,
    }
    pairs = {"shift by (7, −4)": shift_pair, "shift, border counted": bordered_pair,
             "rotation by 90°": turn_pair, "rotation by 30°": tilt_pair,
             "enlarging by 2": enlarge_pair}  # fmt: skip
    found = {(g, f): relative(*pair(w, x)) for g, pair in pairs.items() for f, w in kernels.items()}
    out.heading("What the order of filter and movement matters for")
    out.text(
        "‖f(g(x)) − g(f(x))‖ / ‖g(f(x))‖ on a photograph, mean subtracted. Only places are "
        "compared whose window lies in what was moved; in the second line 'same' padding invents "
        "zeros, and all places count. Turning by 90° and enlarging by 2 copy pixels and round "
        "nothing; turning by 30° interpolates with cubic splines."
    )
    rows = [[g, *(f"{found[g, f]:.1e}" for f in kernels)] for g in pairs]
    out.table("Error of f(g(x)) = g(f(x))", ["g", *(f"f: {f}" for f in kernels)], rows)
    halves = stride_errors(kernels["random"], x)
    out.text(
        f"With stride 2, a shift by 2 moves the output by 1 (error {halves[2]:.0e}). A shift by 1 "
        f"does not move it: neither by 0 nor by 1 places does it fit (error {halves[1]:.2f})."
    )
    f = "round (Gaussian)"
    out.text(
        "The exception is a kernel that is itself round: turning by 90° leaves "
        f"{found['rotation by 90°', f]:.0e}, by 30° {found['rotation by 30°', f]:.3f}, which also "
        "bounds what interpolation adds. Enlarging changes its scale against the image, "
        f"{found['enlarging by 2', f]:.2f}."
    )
    out.result("equivariance_error", {f"{g}; {f}": error for (g, f), error in found.items()})
    out.result("equivariance_error_stride_2", {str(k): v for k, v in halves.items()})
    shift = max(found["shift by (7, −4)", f] for f in kernels)
    claim = "Shifts: f(g(x)) = g(f(x)) away from the border: largest relative error"
    out.claim("B5", claim, f"< {EXACT:.0e}", f"{shift:.1e}", shift < EXACT)
    for g in ("enlarging by 2", "rotation by 90°", "rotation by 30°"):
        error = min(found[g, f] for f in list(kernels)[:2])
        claim = f"Not for {g}, by kernels that are not round: smallest relative error"
        out.claim("B5", claim, "> 0.1", f"{error:.2f}", error > 0.1)
    edge = kernels["vertical edges"]
    shown = []
    for g in ("shift by (7, −4)", "rotation by 90°", "enlarging by 2"):
        shown.append((g, *pairs[g](edge, x), f"{found[g, 'vertical edges']:.2g}"))
    pictures.draw_equivariance(out, shown)


def shift_pair(w, x, by=(7, -4)):
    """(f(g(x)), g(f(x))), without the places that came round the border."""
    cut = (slice(7, -7),) * 2
    left = filtered(np.roll(x, by, (0, 1)), w)[cut]
    return left, np.roll(filtered(x, w), by, (0, 1))[cut]


def bordered_pair(w, x):
    def moved(y):
        return ndimage.shift(y, (7, -4), order=0)  # zeros move in

    return filtered(moved(x), w, padding="same"), moved(filtered(x, w, padding="same"))


def turn_pair(w, x):
    return filtered(np.rot90(x), w), np.rot90(filtered(x, w))


def tilt_pair(w, x):
    def tilted(y):
        return ndimage.rotate(y, 30, reshape=False, order=3)

    left, right = filtered(tilted(x), w), tilted(filtered(x, w))
    quarter = len(left) // 4  # the middle: what came from outside is nowhere near
    return left[quarter:-quarter, quarter:-quarter], right[quarter:-quarter, quarter:-quarter]


def enlarge_pair(w, x):
    """Each pixel to four; the middle of the larger output is in the middle of the window."""

    def enlarged(y):
        return y.repeat(2, axis=0).repeat(2, axis=1)

    half = len(w) // 2
    left, right = filtered(enlarged(x), w), enlarged(filtered(x, w))
    return left[half : half + len(right), half : half + len(right)], right


def stride_errors(w, x):
    """For a shift by 1 and by 2: the smallest error over shifts of the output by 0 and by 1."""
    y, errors = filtered(x, w, strides=2), {}
    for by in (1, 2):
        left = filtered(np.roll(x, by, axis=0), w, strides=2)[3:-3]
        errors[by] = min(relative(left, np.roll(y, k, axis=0)[3:-3]) for k in (0, 1))
    return errors
