"""What `sharing_and_sparsity` finds out about receptive fields."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxdl
from experiments.sharing_and_sparsity import pictures

CHANNELS = 4
SIDE = 48  # of the images on which fields are measured
# Layers with a window: (kind, size, stride, dilation). A relu follows each convolution.
STACKS = {
    "3 × 3": [("conv", 3, 1, 1)] * 6,
    "3 × 3, stride 2": [("conv", 3, 2, 1)] * 4,
    "3 × 3, dilated 1 2 4 8": [("conv", 3, 1, 2**i) for i in range(4)],
    "3 × 3 and average pool": [("conv", 3, 1, 1), ("average_pool", 2, 2, 1)] * 3,
    "5 × 5 and max pool": [("conv", 5, 1, 1), ("max_pool", 2, 2, 1)] * 2,
}
HE = jax.nn.initializers.he_normal()


def one_unit_bwd(model, params, x, place, key):
    """dx of a random mixture of the channels of one unit, on every image; nothing is reduced."""
    y, residuals = model.fwd(params, x)
    mixture = jax.random.normal(key, (y.shape[-1],), y.dtype)
    dy = jnp.zeros_like(y).at[(slice(None), *place)].set(mixture)
    return model.bwd(params, residuals, dy, jaxdl.none)[1]


def layers_of(specs):
    """The layers of a stack; a relu behind each convolution."""
    layers = []
    for kind, size, stride, dilation in specs:
        if kind == "conv":
            conv = jaxdl.conv(CHANNELS, size, strides=stride, dilation=dilation, w_init=HE)
            layers += [conv, jaxdl.relu()]
        else:
            layers.append(getattr(jaxdl, kind)(size, strides=stride))
    return layers


def receptive_field(specs):
    """(r, step): r = 1 + Σ (kᵢ − 1)·δᵢ·Πs, s of the layers below; the product of all strides."""
    size, step = 1, 1
    for _, k, stride, dilation in specs:
        size, step = size + (k - 1) * dilation * step, step * stride
    return size, step


def support(reach):
    """(first, count) of the rows, and of the columns, that are reached."""
    inside = [np.flatnonzero(reach.any(axis=axis)) for axis in (1, 0)]
    return [(int(i[0]), int(i[-1] - i[0] + 1)) if len(i) else (0, 0) for i in inside]


def measure(specs, x, key):
    """Of the unit in the middle: share of images by place, median share of its field by image,
    the support of dx, and where the formula puts it."""
    model = jaxdl.serial(*layers_of(specs))
    params = model.init(key, x)
    middle = jax.eval_shape(model.apply, params, x).shape[1] // 2
    bwd = jax.jit(partial(one_unit_bwd, model, place=(middle, middle), key=key))
    reached = np.asarray(bwd(params, x)[..., 0] != 0)
    size, step = receptive_field(specs)
    by_image = float(np.median(reached.sum(axis=(1, 2)) / size**2))
    return reached.mean(axis=0), by_image, support(reached.any(axis=0)), (middle * step, size)


def fields(settings, out):
    """The support of dx, collected over images, against the formula, at every depth."""
    x_key, key = jax.random.split(jax.random.key(settings.seed + 1))
    x = jax.random.normal(x_key, (settings.images, SIDE, SIDE, 1))
    rows, seen, agree, by_one = [], {}, True, {}
    for name, specs in out.progress(STACKS.items(), "receptive fields"):
        seen[name] = []
        for depth in range(1, len(specs) + 1):
            reach, by_one[name], found, box = measure(specs[:depth], x, key)
            right = found == [box] * 2
            agree &= right
            inside = reach[(slice(box[0], sum(box)),) * 2]
            rows.append([name if depth == 1 else "", depth, specs[depth - 1][0],
                         receptive_field(specs[:depth])[1], box[1], found[0][1],
                         f"{np.mean(inside > 0):.0%}", f"{by_one[name]:.0%}",
                         "yes" if right else "no"])  # fmt: skip
            seen[name].append((depth, reach, found[0][1], box))
    out.heading("What one deep unit sees")
    out.text(
        "A backward pass from one unit in the middle, on many random images: the support of dx is "
        "its receptive field. The formula is r = 1 + Σ (kᵢ − 1)·δᵢ·Πs, the product over the "
        "strides of the layers below, δ the dilation; the field of unit p begins at p·Πs. "
        f"Places reached: by any of {settings.images} images, and by one (median), since relu and "
        "max pooling pass the gradient through a part of their inputs only."
    )
    columns = ["stack", "layers", "last", "Πs", "formula", "measured", "reached", "by one image",
               "agree"]  # fmt: skip
    out.table("Receptive fields", columns, rows)
    sizes = {name: [field[2] for field in found] for name, found in seen.items()}
    out.result("receptive_fields", sizes)
    out.result("reached_by_one_image", by_one)
    out.claim("B3", "Receptive fields from the backward pass have the formula's size and place",
              "all", "all" if agree else "not all", agree)  # fmt: skip
    plain, strided, dilated, pooled, _ = sizes.values()
    found = [plain[3], strided[3], dilated[3]]
    out.claim("B3", "Inputs, in one direction, behind four 3 × 3 kernels: with stride 1, with "
              "stride 2, dilated", [9, 31, 31], found, found == [9, 31, 31])  # fmt: skip
    found = [plain[2], pooled[4]]
    out.claim("B3", "… behind three: without pooling, with pooling by 2 between them", [7, 18],
              found, found == [7, 18])  # fmt: skip
    pictures.draw_fields(out, seen)
    pictures.draw_growth(out, seen)


def squared_gradient(model, side, middle, key):
    """How the squared gradient of one unit is spread over the image, for one draw; its sum is 1."""
    x_key, w_key, mix_key = jax.random.split(key, 3)
    x = jax.random.normal(x_key, (1, side, side, CHANNELS))
    dx = one_unit_bwd(model, model.init(w_key, x), x, middle, mix_key)
    square = jnp.square(dx[0]).sum(axis=-1)
    return square / jnp.maximum(square.sum(), 1e-30)


def effective(settings, out):
    """How wide the gradient of one unit is, against the field that it could reach."""
    deepest = settings.depths[-1]
    side, middle = 2 * deepest + 1, (deepest, deepest)
    offsets = np.arange(side) - deepest
    rows, spread, expected, maps = [], [], [], []
    block = jaxdl.serial(jaxdl.conv(CHANNELS, 3, padding="same", w_init=HE), jaxdl.relu())
    keys = jax.random.split(jax.random.key(settings.seed + 2), settings.draws)
    for n in out.progress(settings.depths, "effective fields"):
        squared = jax.jit(partial(squared_gradient, jaxdl.serial(*[block] * n), side, middle))
        mean = np.mean([squared(key) for key in keys], axis=0, dtype=np.float64)
        mean /= mean.sum()
        by_row = mean.sum(axis=0) + mean.sum(axis=1)
        spread.append(float(np.sqrt(by_row @ offsets**2 / 2)))
        expected.append(float(np.sqrt(2 * n / 3)))
        half = np.abs(offsets) <= n // 2
        maps.append(mean)
        rows.append([n, f"{2 * n + 1} × {2 * n + 1}", f"{expected[-1]:.2f}", f"{spread[-1]:.2f}",
                     f"{mean[half][:, half].sum():.1%}"])  # fmt: skip
    out.heading("What it sees in effect")
    out.text(
        "Squared gradients of one unit with respect to every pixel, as a distribution over the "
        f"image, mean of {settings.draws} draws of the weights. Behind n layers of independent "
        "3 × 3 kernels it is the sum of n steps of −1, 0 or 1, of deviation √(2n/3): a bell whose "
        "width grows with √n in a field that grows with n."
    )
    columns = ["layers n", "field", "√(2n/3)", "deviation", "in the middle half, each way"]
    out.table("Deviation of the squared gradient, in pixels", columns, rows)
    slope = float(np.polyfit(np.log(settings.depths), np.log(spread), 1)[0])
    out.result("effective_deviation", spread)
    out.result("effective_exponent", slope)
    out.claim("B3", "The part of the field that counts grows slower than the field, as nᵖ: p",
              "0.5 ± 0.1 (the field: 1)", f"{slope:.2f}", abs(slope - 0.5) < 0.1)  # fmt: skip
    pictures.draw_effective(out, maps, settings.depths, spread, expected)
