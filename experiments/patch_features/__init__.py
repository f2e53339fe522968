"""Do features learned from small patches serve to tell large images apart?

What the source says (B16): train a sparse autoencoder with 100 hidden units on 8×8 patches of
images, convolve its weights over images of 96×96 pixels, which gives 100 maps of 89×89 (400
features: 7,921 numbers each, 3,168,400 an image), pool disjoint regions, and classify by softmax.

What was found, with four textures of two photographs, crops of one area to learn from and crops of
another to test with:

- The counts are right. The convolved encoder gives what it gives on each patch, to 4e-7.
- The filters become strokes and edges: one Gabor function catches 48 % of a filter's energy
  (median), 10 % before training. Mean activation is 0.050, as asked for.
- Softmax on the pooled features reads the texture, on pixels hardly. With 40 crops of each it reads
  79 % of the test crops by maxima and 59 % by means, on pixels 39 % at best; with 3 crops of each
  60 % and 43 %, on pixels 33 % (means of 10 runs; chance is 25 %).
- Most of that is not due to learning. Random filters reach 71 % and 64 %, with 3 crops 52 % and
  47 %: learning adds 8 to 9 points to maxima, in 19 of 20 comparisons, and costs means 5.
"""

from dataclasses import dataclass
from functools import cache
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdl
from experiments.framework.run import Run
from experiments.framework.settings import Checked, Count, at_least, within
from experiments.patch_features import pictures
from experiments.patch_features.parts import (
    PATCH,
    POOL,
    POOLS,
    SIDE,
    TEXTURES,
    Encoder,
    against_patches,
    all_features,
    as_convolution,
    detector,
    draw_patches,
    load_photos,
    pooled,
    prepare,
    random_filters,
    stroke_share,
    whitening,
)
from jaxdl.models import mlp, sparse_autoencoder, sparse_autoencoder_loss
from jaxdl.train import evaluate, init_state, make_epoch, make_step, train

CROPS = 40  # of each texture and area: more would be the same pixels again


@dataclass(frozen=True)
class Settings(Checked):
    hidden: Count = 100
    """Units of the autoencoder, and so maps of an image."""
    patches: Annotated[int, at_least(1000)] = 20_000
    """Of 8×8 pixels, to train it on."""
    epochs: Count = 200
    """Passes of the autoencoder over them."""
    rho: float = 0.05
    """Mean activation that the sparsity penalty wants of each unit."""
    beta: float = 3.0
    """Weight of that penalty."""
    decay: float = 1e-3
    """Weight of ½‖w‖²."""
    few: Annotated[int, within(1, CROPS, "the crops there are of each texture")] = 3
    """Crops of each texture to train on in the hard task; the easy one has 40."""
    seeds: Count = 5
    """Draws of autoencoders, random filters and crops, each with both areas in turn to train on."""


# --- data ---------------------------------------------------------------------------------------


def draw_crops(photos, area, seed):
    """(x (N, 96, 96, 1), labels): crops at random places, each of mean 0 and deviation 1.

    Half of them are mirrored: the two areas of the pagoda, and of the flower, mirror each other.
    """
    rng = np.random.default_rng(seed)
    crops = []
    for name, *areas in TEXTURES.values():
        top, bottom, left, right = areas[area]
        for _ in range(CROPS):
            i, j = rng.integers(top, bottom - SIDE + 1), rng.integers(left, right - SIDE + 1)
            crops.append(photos[name][i : i + SIDE, j : j + SIDE][:, :: rng.choice((-1, 1))])
    x = np.stack(crops)[..., None]
    x = (x - x.mean(axis=(1, 2), keepdims=True)) / x.std(axis=(1, 2), keepdims=True)
    return x, np.repeat(np.arange(len(TEXTURES), dtype=np.int32), CROPS)


# --- the features -------------------------------------------------------------------------------


def train_autoencoder(settings, patches, out, seed):
    whiten = whitening(patches)
    x = prepare(patches, whiten)
    model = sparse_autoencoder(settings.hidden, PATCH**2)
    loss = sparse_autoencoder_loss(settings.rho, settings.beta)
    batch = 500
    schedule = optax.cosine_decay_schedule(1e-2, settings.epochs * (len(x) // batch))
    decay = optax.add_decayed_weights(settings.decay, mask=weights_only)
    tx = optax.chain(decay, optax.adam(schedule))
    state = init_state(model, tx, x[:1], seed)
    first = Encoder(whiten, *(np.asarray(state.params["encoder"][k]) for k in "wb"))
    epoch = make_epoch(make_step(model, loss, tx), batch=batch)
    bar = out.progress(settings.epochs, f"autoencoder {seed}")
    for _, (now, metrics) in zip(bar, train(epoch, state, x, x, settings.epochs), strict=True):
        state = now
        out.log(seed=seed, loss=float(metrics["loss"].mean()))
    code, rebuilt = jnp.split(model.apply(state.params, x[:5000]), [settings.hidden], axis=-1)
    seen = {
        "mean_activation": float(code.mean()),
        "error_over_variance": float(jnp.mean((rebuilt - x[:5000]) ** 2) / x.var()),
        "truncated": float(np.mean(np.abs(patches @ whiten) > 1)),
    }
    return first, Encoder(whiten, *(np.asarray(state.params["encoder"][k]) for k in "wb")), seen


def weights_only(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


# --- what is measured ---------------------------------------------------------------------------


@cache  # one program for all features of one length
def classifier(batch):
    model, loss = mlp([len(TEXTURES)]), jaxdl.softmax_cross_entropy()
    tx = optax.chain(optax.add_decayed_weights(1e-3, mask=weights_only), optax.adam(3e-3))
    return model, loss, tx, make_epoch(make_step(model, loss, tx), batch=batch)


def classify(x_train, y_train, x_test, y_test):
    """Test accuracy of softmax regression on features of mean 0 and deviation 1."""
    mean, deviation = x_train.mean(axis=0), x_train.std(axis=0) + 1e-6
    x_train, x_test = ((x - mean) / deviation for x in (x_train, x_test))
    model, loss, tx, epoch = classifier(len(x_train))
    state = init_state(model, tx, x_train[:1])
    for now, _ in train(epoch, state, x_train, y_train, 200):
        state = now
    return float(evaluate(model, loss, state.params, x_test, y_test).accuracy)


# --- the run ------------------------------------------------------------------------------------


def run(settings: Settings, out: Run) -> None:
    photos = load_photos()
    pictures.crops(out, {
        name: [photos[photo][a[0] : a[1], a[2] : a[3]] for a in areas]
        for name, (photo, *areas) in TEXTURES.items()
    })  # fmt: skip
    count(settings, out)
    accuracy, learning = {}, []
    turns = [(seed, area) for seed in range(settings.seeds) for area in (0, 1)]
    for seed, area in turns:
        x_train, y_train = draw_crops(photos, area, 2 * seed)
        x_test, y_test = draw_crops(photos, 1 - area, 2 * seed + 1)
        patches = draw_patches(x_train, settings.patches, seed)
        first, encoder, seen = train_autoencoder(settings, patches, out, 2 * seed + area)
        encoders = {"learned": encoder, "random": random_filters(encoder, seed)}
        if not learning:
            report_encoder(out, first, encoder, x_test[0])
        learning.append(seen)
        sets = [all_features(encoders, x) for x in (x_train, x_test)]
        some = np.flatnonzero(np.arange(len(y_train)) % CROPS < settings.few)
        for name, values in sets[0].items():
            for n, rows in ((CROPS, slice(None)), (settings.few, some)):
                found = classify(values[rows], y_train[rows], sets[1][name], y_test)
                accuracy.setdefault((name, n), []).append(found)
    report_accuracy(settings, out, accuracy, sets[0], learning)


def count(settings, out):
    rows, found = [], {}
    for hidden in sorted({settings.hidden, 100, 400}):
        layer = detector(hidden)
        x = jax.ShapeDtypeStruct((1, SIDE, SIDE, 1), jnp.float32)
        params = jax.eval_shape(layer.init, jax.random.key(0), x)
        shape = jax.eval_shape(layer.apply, params, x).shape[1:]
        small = jax.eval_shape(pooled("mean").apply, {}, jnp.zeros((1, *shape)))
        places, features = shape[0] * shape[1], int(np.prod(shape))
        found[hidden] = [*shape[:2], places, features]
        cells = (hidden, f"{shape[0]}×{shape[1]}", places, features, small.size)
        rows.append([c if isinstance(c, str) else f"{c:,}" for c in cells])
    out.heading("Shapes")
    columns = ["features", "map", "places of a map", "numbers of an image", "pooled over 3×3"]
    out.table(f"{PATCH}×{PATCH} features over {SIDE}×{SIDE} images", columns, rows)
    out.result("shapes", {str(k): v for k, v in found.items()})
    out.claim("B16", "100 features make maps of", "89×89", f"{found[100][0]}×{found[100][1]}",
              found[100][:2] == [89, 89])  # fmt: skip
    _, _, places, features = found[400]
    out.claim("B16", "400 features: places of a map, numbers of an image", "7,921 and 3,168,400",
              f"{places:,} and {features:,}", (places, features) == (7921, 3168400))  # fmt: skip


def report_encoder(out, first, encoder, image):
    # In the pixels of a patch, so before and after training are seen through the same whitening.
    filters = {"before": first.whiten @ first.w, "after": encoder.whiten @ encoder.w}
    shares = {when: float(np.median(stroke_share(f))) for when, f in filters.items()}
    exact, truncated = against_patches(encoder, image)
    out.heading("The features")
    out.text(
        "The autoencoder sees patches whose mean is taken off and which are whitened, truncated "
        "at three standard deviations and scaled to 0.1 … 0.9. All of it but the truncation is "
        "linear, so that the encoder becomes one convolution with a sigmoid. On each patch of a "
        f"{SIDE}×{SIDE} image by itself it gives the same, to {exact:.0e}; truncation, which the "
        f"convolution leaves out, would move an activation by up to {truncated:.2f}. Of a filter's "
        "energy the best of 192 Gabor functions, short waves under a Gaussian, catches "
        f"{shares['before']:.0%} (median) before training and {shares['after']:.0%} after."
    )
    out.result("gabor_share", shares)
    out.result("convolution_against_patches", {"exact": exact, "truncated": truncated})
    out.claim("B16", "The convolved encoder is the encoder on each patch: largest difference",
              "< 1e-5", f"{exact:.0e}", exact < 1e-5)  # fmt: skip
    out.claim("B16", "Features become local edges: share of a filter in one Gabor function",
              "above that before training", f"{shares['after']:.0%}, {shares['before']:.0%} before",
              shares["after"] > shares["before"] + 0.1)  # fmt: skip
    pictures.filters(out, filters["after"], PATCH)
    layer, params = as_convolution(encoder)
    maps = np.asarray(layer.apply(params, image[None]))[0]
    pictures.maps(out, image[..., 0], maps, filters["after"], PATCH, POOL)


def report_accuracy(settings, out, accuracy, features, learning):
    few = settings.few
    mean = {key: float(np.mean(values)) for key, values in accuracy.items()}
    means = {name: float(np.mean([seen[name] for seen in learning])) for name in learning[0]}
    out.result("autoencoder", means)
    out.heading("Which texture is it?")
    out.text(
        f"Four textures of two photographs, each from two areas that have no pixel in common: "
        f"{SIDE}×{SIDE} grey crops of one area to learn from, patches for the autoencoder "
        f"included, and {CROPS} of the other to test with; then the other way round. Each crop has "
        "mean 0 and deviation 1, so that brightness and contrast say nothing, and half of them are "
        "mirrored. Chance is 25 %. "
        "Random filters have the lengths and the whitening of the learned ones. The features are "
        f"pooled over 3×3 regions of {POOL}×{POOL} places. The autoencoder's mean activation is "
        f"{means['mean_activation']:.3f}, and {means['error_over_variance']:.0%} of the patches' "
        f"variance is lost; {means['truncated']:.1%} of their pixels are truncated."
    )
    rows = [
        [name, f"{values.shape[-1]:,}", *(f"{mean[name, n]:.1%}" for n in (few, CROPS))]
        for name, values in features.items()
    ]
    columns = ["softmax on", "numbers", f"{few} crops of each", f"{CROPS} of each"]
    out.table(f"Test accuracy, mean of {2 * settings.seeds} runs", columns, rows)
    out.result("accuracy", {f"{name}, {n}": v for (name, n), v in accuracy.items()})
    for n in (few, CROPS):
        of = {
            word: [v for (name, k), v in mean.items() if k == n and name.startswith(word)]
            for word in ("learned", "random", ("pixels", "all pixels"))
        }
        learned, chance, pixels = of.values()
        words = " and ".join(f"{a:.1%} ({kind})" for a, kind in zip(learned, POOLS, strict=True))
        out.claim("B16", f"Pooled learned features beat softmax on pixels, {n} crops of each",
                  f"> {max(pixels):.1%}", words, min(learned) > max(pixels))  # fmt: skip
        for kind, a, b in zip(POOLS, learned, chance, strict=True):
            text = f"Learned features, pooled by {kind}, beat random ones, {n} crops of each"
            out.claim("B16", text, f"> {b:.1%}", f"{a:.1%}", a > b)
    pictures.accuracy(out, list(features), accuracy, (few, CROPS))
