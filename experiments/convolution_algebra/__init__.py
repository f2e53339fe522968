"""Is the convolution layer the convolution of mathematics, and what follows from that?

What the sources claim: convolution commutes and smooths (B1), and cross-correlation is convolution
with the kernel turned by 180° (B2); it commutes with shifts, not with scaling or rotation (B5);
edges by neighbour difference cost 267,960 operations where a dense matrix takes over 16 billion
(B6); it is a dense layer with tied and zero weights (B7); it can go by Fourier transform (D9); as
cross-correlation it detects features, and the maximum marks the place (D10).

What was found:

- All of B1 and B2 holds against SciPy to 1e-15, in 1-D, 2-D and 3-D. With kernels of even sizes
  'same' means two things, one place apart, and SciPy's own functions do not agree on one.
- A shift in front of the layer is exactly a shift behind it, where no border is seen; 'same'
  padding makes it 5 to 45 % wrong, and stride 2 breaks it for odd shifts. Rotation by 90° leaves
  errors of 57 % and more, enlarging by 2 of 40 % and more. A round kernel does follow rotation:
  1e-16 for 90°, 0.4 % for 30°.
- 59,733 times the operations, 4 billion times the weights. At 56 × 64 the dense matrix fits, and
  takes about 30 times as long; there the convolution is over before it has well begun.
- The matrix is 79 to 94 % zeros, and has as many distinct values as the kernel has weights. It
  gives y and dx, and its dense gradient, summed over the tied places, gives dw, all to 1e-15.
- On two shared CPU cores and 96 × 96 images the transform wins from about 9 × 9 with one channel
  and 11 × 11 with eight, and 16 to 300 times at 63 × 63. Below that the direct form wins.
- The maximum of plain cross-correlation does NOT mark the place in a photograph: it finds 11 % of
  templates cut from it, 26 % with the mean subtracted. Every miss lies on a patch of larger norm,
  as the Cauchy-Schwarz inequality demands. In white noise, whose patches have about one norm, it
  finds all. Normalised it finds all in the photograph too, until noise hides the flat ones.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from scipy import signal
from sklearn.datasets import load_sample_image

import jaxdl
from experiments.convolution_algebra import pictures
from experiments.convolution_algebra.cost import edges, fourier
from experiments.convolution_algebra.detection import detector
from experiments.convolution_algebra.filtering import filtered, turned
from experiments.convolution_algebra.symmetries import equivariance
from experiments.framework.precision import EXACT, relative
from experiments.framework.run import Run
from experiments.framework.settings import Checked, Count, within
from jaxdl.layers.toeplitz import conv_matrix

MODES = ("valid", "same", "full")


@dataclass(frozen=True)
class Settings(Checked):
    side: Annotated[int, within(80, 420, "the photograph")] = 160
    """Rows and columns of the photograph; 80 to 420."""
    dense_image: tuple[int, int] = (56, 64)
    """Image whose edges are also found by a dense matrix of about (rows · columns)² weights."""
    kernel_sizes: tuple[int, ...] = (3, 5, 7, 9, 11, 15, 21, 31, 47, 63)
    """Sizes at which the Fourier transform runs against the direct form."""
    fourier_side: int = 96
    """Rows and columns of the image for that."""
    template: int = 12
    """Rows and columns of what the detector looks for."""
    noise: tuple[float, ...] = (0.0, 0.1, 0.3, 0.6)
    """Standard deviations of the noise added to the photograph, whose own is 1."""
    repetitions: Count = 9
    """Rounds of every timing."""
    seed: int = 0
    """Of noise, kernels and places."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 4 <= self.template <= self.side // 4:
            self.refuse(f"template must be in 4 … side/4 ({self.side // 4}), got {self.template}")
        if not self.kernel_sizes or any(
            size % 2 == 0 or not 1 <= size <= self.fourier_side for size in self.kernel_sizes
        ):
            self.refuse(
                f"kernel_sizes must be odd numbers in 1 … fourier_side ({self.fourier_side}), got "
                f"{self.kernel_sizes}; e.g. 3 9 31"
            )
        if min(self.dense_image) < 2 or np.prod(self.dense_image) > 10_000:
            self.refuse(
                "dense_image must have at least 2 rows and columns and at most 10,000 pixels, "
                f"whose dense matrix takes 400 MB, got {self.dense_image}; e.g. 56 64"
            )
        if not self.noise or min(self.noise) < 0:
            self.refuse(f"noise must be at least one number, none negative, got {self.noise}")


def photograph():
    """A photograph of a temple in grey, mean 0 and deviation 1."""
    grey = load_sample_image("china.jpg").mean(axis=-1)
    return (grey - grey.mean()) / grey.std()


def run(settings: Settings, out: Run) -> None:
    image = photograph()
    crop = image[: settings.side, 140 : 140 + settings.side]
    random = np.random.default_rng(settings.seed)
    with jax.enable_x64(True):  # so that 1e-16 can be told from an error
        smoothing(out, random)
        against_scipy(out, random)
        printed_example(out)
        equivariance(out, random, crop)
        matrices(out, random)
        detector(settings, out, random, crop)
    with jax.enable_x64(False):  # times and memory as they are in use
        edges(settings, out, image)
        fourier(settings, out, random)


def smoothing(out, random):
    """The definition, spelled out as two loops, on a sensor that is noisy."""
    time = np.arange(400)
    true = np.sin(time / 40) + 0.5 * np.sin(time / 17)
    noisy = true + 0.3 * random.normal(size=len(time))
    ages = np.arange(16)
    w = np.exp(-ages / 5)
    w /= w.sum()
    s = filtered(noisy, w, padding="full", flip=True)
    by_definition = [
        sum(noisy[a] * w[t - a] for a in range(len(noisy)) if 0 <= t - a < len(w))
        for t in range(len(s))
    ]
    error = relative(s, np.array(by_definition))
    settled = time[len(w) - 1 :]  # before, the weights reach back to where nothing was read
    wrong = [float(np.sqrt(np.mean((y[settled] - true[settled]) ** 2))) for y in (noisy, s)]
    out.heading("A noisy sensor")
    out.text(
        "Readings of a place, each with an error of deviation 0.3. s(t) = Σ x(a)·w(t − a) weighs "
        f"the last {len(w)} of them, the newest most. The weights have a mean age of "
        f"{ages @ w:.1f} readings, by which s comes late: smoothing trades noise for delay."
    )
    columns = ["", "root of mean squared error"]
    out.table("Distance from the true place", columns, [["readings", wrong[0]], ["s", wrong[1]]])
    out.result("sensor_error", {"readings": wrong[0], "smoothed": wrong[1]})
    claim = "The layer with flip=True is s(t) = Σ x(a)·w(t − a): relative error"
    out.claim("B1", claim, f"< {EXACT:.0e}", f"{error:.1e}", error < EXACT)
    claim = "Smoothing brings the sensor's readings nearer to the truth: error, before and after"
    out.claim("B1", claim, "smaller", f"{wrong[0]:.3f}, {wrong[1]:.3f}", wrong[1] < wrong[0])
    pictures.draw_smoothing(out, true, noisy, s, w)


def against_scipy(out, random):
    """Every mode in one, two and three dimensions, and whether the factors can be exchanged."""
    rows, worst, moves = [], 0.0, {}
    commuted, correlated = [], []
    for rank, parity in ((r, p) for r in (1, 2, 3) for p in ("odd", "even")):
        x = random.normal(size=(11, 9, 8)[:rank])
        w = random.normal(size=((5, 3, 3) if parity == "odd" else (4, 2, 4))[:rank])
        for flip in (False, True):
            name = "convolve" if flip else "correlate"
            oracle = getattr(signal, f"{name}2d" if rank == 2 else name)
            errors = []
            for mode in MODES:
                ours, theirs = filtered(x, w, padding=mode, flip=flip), oracle(x, w, mode)
                error, moved = by_moves(ours, theirs)
                errors.append(error)
                moves[rank, parity, oracle.__name__, mode] = moved
            there = ", moved by 1" * moves[rank, parity, oracle.__name__, "same"]
            cells = [f"{error:.0e}" for error in errors]
            rows.append(
                [f"{rank}-D", parity, oracle.__name__, cells[0], cells[1] + there, cells[2]]
            )
            worst = max(worst, *errors)
        both = filtered(x, w, padding="full", flip=True), filtered(w, x, padding="full", flip=True)
        commuted.append(relative(*both))
        plain, exchanged = filtered(x, w, padding="full"), filtered(w, x, padding="full")
        correlated.append((relative(plain, exchanged), relative(turned(plain), exchanged)))
    out.heading("Convolution and cross-correlation")
    out.text(
        "The layer computes the cross-correlation x ⋆ w, Σ x[p + q]·w[q]; with flip=True the "
        "convolution x ∗ w, Σ x[p − q]·w[q], which is x ⋆ (w turned round). Kernels of even sizes "
        "have no middle, and the conventions of 'same' part there, inside SciPy as well: what is "
        "marked as moved equals the layer's output moved by one place along every axis."
    )
    columns = ["", "kernel sizes", "SciPy", *MODES]
    out.table("Relative error against scipy.signal", columns, rows)
    out.result("scipy_error", worst)
    claim = "valid, same and full equal scipy.signal in 1-D, 2-D and 3-D: largest relative error"
    out.claim("B1", claim, f"< {EXACT:.0e}", f"{worst:.1e}", worst < EXACT)
    claim = "Convolution commutes, x ∗ w = w ∗ x: relative error"
    found = max(commuted)
    out.claim("B1", claim, f"< {EXACT:.0e}", f"{found:.1e}", found < EXACT)
    away, back = min(a for a, _ in correlated), max(b for _, b in correlated)
    out.text(
        f"Exchanging the factors of a convolution changes it by {found:.0e}; of a "
        f"cross-correlation by {away:.2f} at the least, and its result is turned round: after "
        f"turning it back, {back:.0e}."
    )
    out.result("exchanged", {"convolution": found, "correlation": away, "turned_back": back})
    moved = [" ".join(map(str, key)) for key, by in moves.items() if by]
    out.result("moved_by_one", moved)
    claim = "Only 'same' with kernels of even sizes is moved against SciPy, by one place: cases"
    kinds = {(parity, mode) for (_, parity, _, mode), by in moves.items() if by}
    out.claim("B1", claim, "at most 6", len(moved), kinds <= {("even", "same")})
    claim = "Cross-correlation does not commute: relative difference of x ⋆ w and w ⋆ x"
    holds = away > 0.1 and back < EXACT
    out.claim("B1", claim, "> 0.1", f"{away:.2f}", holds)


def by_moves(ours, theirs):
    """(error, move): equal as they are, or after moving ours by one place along every axis?"""
    rank = ours.ndim
    as_is = relative(ours, theirs)
    moved = relative(ours[(slice(None, -1),) * rank], theirs[(slice(1, None),) * rank])
    return (as_is, 0) if as_is <= moved else (moved, 1)


def printed_example(out):
    x, w = np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([[1.0, 2], [3, 4]])
    rows, equal = [], True
    for mode in ("valid", "full"):
        ours = {
            "x ⋆ w": filtered(x, w, padding=mode),
            "x ∗ (w turned)": filtered(x, turned(w), padding=mode, flip=True),
            "correlate2d(x, w)": signal.correlate2d(x, w, mode),
            "convolve2d(x, w turned)": signal.convolve2d(x, turned(w), mode),
        }
        first = ours["x ⋆ w"]
        equal &= all(np.array_equal(value, first) for value in ours.values())
        rows += [[mode, name, value.astype(int).tolist()] for name, value in ours.items()]
    out.table("[[1, 2], [3, 4], [5, 6]] with [[1, 2], [3, 4]]", ["mode", "by", "result"], rows)
    valid = filtered(x, w)
    out.result("printed_example", valid)
    claim = "Cross-correlation is convolution with the kernel turned by 180°, as in SciPy"
    out.claim("B2", claim, "equal", "equal" if equal else "not equal", equal)


def matrices(out, random):
    """A convolution as the dense layer it is, forward and backward."""
    cases = {
        "1-D, 24 values, kernel 5": ((24,), (5, 1, 1), {}),
        "2-D, 8 × 8, kernel 3 × 3": ((8, 8), (3, 3, 1, 1), {}),
        "2-D, stride 2, 'same'": ((8, 8), (3, 3, 1, 1), {"strides": 2, "padding": "same"}),
        "2-D, 3 to 4 channels": ((8, 8), (3, 3, 3, 4), {"padding": "same"}),
        "3-D, 5 × 5 × 5": ((5, 5, 5), (2, 2, 2, 1, 2), {"dilation": 2}),
    }
    rows, worst, pictured = [], 0.0, {}
    for name, (space, shape, options) in cases.items():
        w = jnp.asarray(random.normal(size=shape))
        x = jnp.asarray(random.normal(size=(3, *space, shape[-2])))
        layer = jaxdl.conv(shape[-1], shape[:-2], rank=len(space), use_bias=False, **options)
        dense = jaxdl.dense(int(np.prod(layer.apply({"w": w}, x).shape[1:])), use_bias=False)
        matrix = np.asarray(conv_matrix(w, space, **options))
        y, kept = layer.fwd({"w": w}, x)
        y_dense, kept_dense = dense.fwd({"w": jnp.asarray(matrix)}, x.reshape(3, -1))
        dy = jnp.asarray(random.normal(size=y.shape))
        gradient, dx = layer.bwd({"w": w}, kept, dy)
        dense_gradient, dx_dense = dense.bwd({"w": jnp.asarray(matrix)}, kept_dense,
                                             dy.reshape(3, -1))  # fmt: skip
        # Where each weight stands in the matrix: its gradient is the sum over these places.
        stands = [matrix == value for value in np.ravel(w)]
        summed = [np.sum(np.asarray(dense_gradient["w"])[place]) for place in stands]
        errors = (
            relative(y.reshape(3, -1), np.asarray(y_dense)),
            relative(dx.reshape(3, -1), np.asarray(dx_dense)),
            relative(np.ravel(gradient["w"]), np.array(summed)),
        )
        values = len(np.unique(matrix[matrix != 0]))
        worst = max(worst, *errors)
        zeros = float(np.mean(matrix == 0))
        rows.append([name, " × ".join(map(str, matrix.shape)), f"{zeros:.1%}", values, w.size,
                     *(f"{error:.0e}" for error in errors)])  # fmt: skip
        out.log(case=name, zeros=zeros, values=values, weights=w.size)
        pictured[name] = matrix
    out.heading("The dense layer that a convolution is")
    out.text(
        "The same map as a dense layer with a matrix in which most entries are fixed at zero and "
        "the others are tied. Its backward pass is the product with the transpose. The gradient "
        "of the kernel is the dense layer's, summed over all places where a weight stands."
    )
    columns = ["convolution", "matrix", "zeros", "distinct values", "weights", "y", "dx", "dw"]
    out.table("Dense layer and convolution: relative errors of y, dx and dw", columns, rows)
    claim = (
        "The tied, mostly zero dense matrix gives y, dx and dw of the convolution: largest error"
    )
    out.claim("B7", claim, f"< {EXACT:.0e}", f"{worst:.1e}", worst < EXACT)
    tied = all(row[3] == row[4] for row in rows)
    claim = "Distinct values in the matrix other than zero: as many as the kernel has weights"
    out.claim("B7", claim, "equal", "equal" if tied else "not equal", tied)
    out.result("matrix", [{"case": r[0], "zeros": r[2], "values": r[3]} for r in rows])
    pictures.draw_matrices(out, {name: pictured[name] for name in list(cases)[:3]})
