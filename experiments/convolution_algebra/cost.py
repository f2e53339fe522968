"""Parts of `convolution_algebra`: the cost of its dense, direct and Fourier forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxdl
from experiments.convolution_algebra import pictures
from experiments.convolution_algebra.filtering import filtered
from experiments.framework.precision import EXACT, relative
from experiments.framework.timing import interleave, ratio, show
from jaxdl.layers.toeplitz import conv_matrix

COUNTED = (280, 320)  # rows and columns of the image whose edges the source counts
DIFFERENCE = np.array([[-1.0, 1.0]])


def edges(settings, out, image):
    """Neighbour differences by a kernel of two, and by the dense matrix that does the same."""
    layer = jaxdl.conv(1, DIFFERENCE.shape, use_bias=False)
    kernel = jnp.asarray(DIFFERENCE, jnp.float32)[..., None, None]
    key = jax.random.key(0)

    def sizes(shape):
        """(pixels out, weights of the dense layer, weights of the kernel); nothing is allocated."""
        x = jax.ShapeDtypeStruct((1, *shape, 1), jnp.float32)
        params = jax.eval_shape(layer.init, key, x)
        outputs = jax.eval_shape(layer.apply, params, x).size
        flat = jax.ShapeDtypeStruct((1, x.size), jnp.float32)
        dense = jax.eval_shape(jaxdl.dense(outputs, use_bias=False).init, key, flat)
        return outputs, dense["w"].size, params["w"].size

    outputs, dense_weights, kernel_weights = sizes(COUNTED)
    # of each output: as many products as the kernel has weights, and one sum fewer
    operations = outputs * (2 * kernel_weights - 1), 2 * dense_weights
    x = image[: COUNTED[0], : COUNTED[1]]
    y = np.asarray(layer.apply({"w": kernel}, jnp.asarray(x, jnp.float32)[None, ..., None]))
    pictures.draw_edges(out, x, y[0, ..., 0])
    measured = measure_edges(settings, out, layer, kernel, image)
    small = sizes(settings.dense_image)
    out.heading("Edges by neighbour difference, and by a dense matrix")
    size = " × ".join(map(str, settings.dense_image))
    rows = [
        ["320 × 280: operations", f"{operations[0]:,}", f"{operations[1]:,}",
         f"{operations[1] / operations[0]:,.0f}"],
        ["320 × 280: weights", kernel_weights, f"{dense_weights:,}",
         f"{dense_weights / kernel_weights:,.0f}"],
        [f"{size}: weights", small[2], f"{small[1]:,}", f"{small[1] / small[2]:,.0f}"],
        [f"{size}: time, median", *(f"{1e6 * t:,.0f} µs" for t in measured["seconds"]),
         f"{measured['ratio']:,.0f}"],
    ]  # fmt: skip
    out.table("One image", ["", "convolution", "dense matrix", "ratio"], rows)
    out.text(
        "Sizes come from the layers' own `init`, which is not run. The source counts two "
        "products and one sum for each output of the kernel; the dense product has a product and "
        f"a sum for each of its {dense_weights:,} weights, 32 GB in float32. At {size} it fits, "
        "and is timed; there a convolution takes mostly the time of starting it, so that the ratio "
        "falls short of that of the operations, which is "
        f"{2 * small[1] / (small[0] * (2 * small[2] - 1)):,.0f}."
    )
    out.result("edge_operations", {"convolution": operations[0], "dense": operations[1]})
    out.result("edge_weights", {"convolution": kernel_weights, "dense": dense_weights})
    out.result("edge_time_ratio", measured["ratio"])
    out.claim("B6", "Operations of the 320 × 280 image's edges, by kernel", 267_960,
              operations[0], operations[0] == 319 * 280 * 3)  # fmt: skip
    out.claim("B6", "The same by a dense product", "> 16 billion",
              f"{operations[1] / 1e9:.3f} billion", operations[1] > 16e9)  # fmt: skip
    out.claim("B6", f"Both give the same edges, at {size}: relative error", "< 1e-6",
              f"{measured['error']:.1e}", measured["error"] < 1e-6)  # fmt: skip
    out.claim("B6", f"The kernel is faster, at {size}: times faster", "> 1",
              f"{measured['ratio']:.0f}", measured["ratio"] > 1)  # fmt: skip


def measure_edges(settings, out, layer, kernel, image):
    rows, columns = settings.dense_image
    matrix = jnp.asarray(conv_matrix(kernel, settings.dense_image))
    x = jnp.asarray(image[:rows, :columns], jnp.float32)[None, ..., None]
    dense = jaxdl.dense(matrix.shape[1], use_bias=False)
    convolve, multiply = jax.jit(layer.apply), jax.jit(dense.apply)
    flat = x.reshape(1, -1)
    error = relative(multiply({"w": matrix}, flat),
                     np.asarray(convolve({"w": kernel}, x)).reshape(1, -1))  # fmt: skip
    sides = {"conv": lambda: convolve({"w": kernel}, x),
             "dense": lambda: multiply({"w": matrix}, flat)}  # fmt: skip
    times = interleave(sides, settings.repetitions, out)
    seconds = [float(np.median(times[side])) for side in sides]
    return {"error": error, "seconds": seconds, "ratio": seconds[1] / seconds[0]}


def fourier(settings, out, random):
    """The direct form against the transform, over sizes of the kernel."""
    side, seconds, crossovers, worst = settings.fourier_side, {}, {}, 0.0
    ratios = {}
    cases = {"1 → 1 channel": (1, 1), "8 → 8 channels": (8, 8)}
    for case, (channels, features) in cases.items():
        x = jnp.asarray(random.normal(size=(1, side, side, channels)), jnp.float32)
        seconds[case], ratios[case] = {"direct": {}, "Fourier": {}}, {}
        for k in out.progress(settings.kernel_sizes, f"Fourier, {case}"):
            layers = (jaxdl.conv(features, k, padding="same", use_bias=False),
                      jaxdl.fft_conv(features, k, padding="same", use_bias=False))  # fmt: skip
            params = layers[0].init(jax.random.key(k), x)
            direct, transform = (jax.jit(layer.apply) for layer in layers)
            worst = max(worst, relative(transform(params, x), np.asarray(direct(params, x))))
            sides = {"direct": partial(direct, params, x), "Fourier": partial(transform, params, x)}
            times = interleave(sides, settings.repetitions, out)
            for name in sides:
                seconds[case][name][k] = float(np.median(times[name]))
            ratios[case][k] = ratio(times, "Fourier", "direct")
            out.log(case=case, kernel=k, **{n: s[k] for n, s in seconds[case].items()})
        crossovers[case] = crossover(ratios[case])
    theorem = transform_error(random)
    out.heading("Convolution by the Fourier transform")
    out.text(
        f"A product of transforms costs the same whatever the size of the kernel; the direct form "
        f"costs its square. One image of {side} × {side}, float32, 'same'. The theorem itself, "
        f"F(x ∗ w) = F(x)·F(w), with NumPy's transform in float64: relative error {theorem:.0e}."
    )
    rows = [
        [k, case, *(f"{1e3 * seconds[case][name][k]:.2f} ms" for name in seconds[case]),
         show(ratios[case][k])]
        for case in cases for k in settings.kernel_sizes
    ]  # fmt: skip
    columns = ["kernel", "channels", "direct", "Fourier", "Fourier / direct (quartiles)"]
    out.table("Median time of a forward pass, and the ratio of neighbouring rounds", columns, rows)
    out.result("fourier_seconds", {c: {n: list(v.values()) for n, v in s.items()}
                                   for c, s in seconds.items()})  # fmt: skip
    out.result("fourier_over_direct", {c: list(v.values()) for c, v in ratios.items()})
    out.result("fourier_crossover", crossovers)
    claim = "Convolution by Fourier transform equals the direct form, in float32: relative error"
    out.claim("D9", claim, "< 1e-5", f"{worst:.1e}", worst < 1e-5)
    claim = "The transform of a convolution is the product of the transforms: relative error"
    out.claim("D9", claim, f"< {EXACT:.0e}", f"{theorem:.1e}", theorem < EXACT)
    for case, size in crossovers.items():
        found = "at no size tried" if size is None else f"kernels from {size} × {size}"
        claim = f"Faster by Fourier transform, {case}, {side} × {side} image"
        out.claim("D9", claim, "for large kernels", found, size is not None)
    pictures.draw_crossover(out, seconds, crossovers, side)


def crossover(ratios):
    """The smallest size from which on the transform is faster at every size tried, or None."""
    slower = [k for k, found in ratios.items() if found["median"] >= 1]
    return min((k for k in ratios if not slower or k > max(slower)), default=None)


def transform_error(random):
    x, w = random.normal(size=(20, 17)), random.normal(size=(6, 5))
    with jax.enable_x64(True):
        y = filtered(x, w, padding="full", flip=True)
    product = np.fft.fft2(x, y.shape) * np.fft.fft2(w, y.shape)
    return relative(np.fft.fft2(y), product)
