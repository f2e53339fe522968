"""Part of `pooling`: regions that come with the data, and one set of regions learned from it."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxdl
from experiments.pooling import pictures
from jaxdl.data import mnist5k, validation_split

FILTERS = 8
STEP = 2  # places between the lines on which candidate regions begin and end
COUNTS = (4, 9)  # regions in a structure
RIDGE = 1e-2
RANDOM = 20  # random structures beside the learned one


def edge_filters():
    """Eight oriented edge filters of 5×5: the slope of a Gaussian along every 45°."""
    y, x = np.mgrid[-2:3, -2:3]
    bell = np.exp(-(x**2 + y**2) / 3)
    angles = np.arange(FILTERS) * np.pi / 4
    w = np.stack([bell * (np.cos(a) * x + np.sin(a) * y) for a in angles], axis=-1)
    w = w / np.abs(w).sum(axis=(0, 1)) * 2
    return {"w": jnp.asarray(w[:, :, None], jnp.float32), "b": jnp.zeros(FILTERS, jnp.float32)}


def detect(images):
    """Convolution with the edge filters and relu: (N, n, n, 1) to (N, n − 4, n − 4, FILTERS)."""
    block = jaxdl.serial(jaxdl.conv(FILTERS, 5), jaxdl.relu())
    return block.apply({"conv": edge_filters()}, images)


def grid(start, stop, count):
    """count × count regions that cut [start, stop) of both axes: int (count², 2, 2)."""
    edges = np.round(np.linspace(start, stop, count + 1)).astype(np.int32)  # (count + 1, axes)
    bounds = np.stack([edges[:-1], edges[1:]], axis=-1)  # (count, axes, 2)
    return np.array([(bounds[i, 0], bounds[j, 1]) for i in range(count) for j in range(count)])


@jax.jit
def pool(images, regions):
    """Mean of the detector maps over each region: (N, R · FILTERS), in batches of 100."""

    def one(part):
        maps, bounds = detect(part[0]), part[1]
        pooled = jaxdl.region_pool("mean").apply({}, {"x": maps, "regions": bounds})
        return pooled.reshape(len(maps), -1)

    parts = (
        images.reshape(-1, 100, *images.shape[1:]),
        regions.reshape(-1, 100, *regions.shape[1:]),
    )
    return jax.lax.map(one, parts).reshape(len(images), -1)  # fmt: skip


def for_all(regions, images):
    """The same regions for every image."""
    return np.broadcast_to(regions, (len(images), *regions.shape))


def given(out, digit):
    """One image under three sets of regions, against loops; gradients stay inside."""
    maps = detect(jnp.asarray(digit))
    ink = np.clip(box_of_ink(digit)[0] - 2, 0, maps.shape[1])
    sets = {
        "grid over the map": grid((0, 0), maps.shape[1:3], 3),
        "grid over the ink": grid(ink[:, 0], ink[:, 1], 3),
        "any rectangles": np.array([[[2, 9], [5, 20]], [[8, 22], [13, 17]], [[14, 20], [0, 12]]]),
    }
    layer, errors = jaxdl.region_pool("max"), {}
    for name, bounds in sets.items():
        x = {"x": maps, "regions": jnp.asarray(bounds, jnp.int32)[None]}
        y, residuals = layer.fwd({}, x)
        dx = np.asarray(layer.bwd({}, residuals, jnp.ones_like(y))[1]["x"])[0]
        loops = [np.asarray(maps)[0, r[0] : r[1], c[0] : c[1]].max(axis=(0, 1)) for r, c in bounds]
        inside = np.zeros(maps.shape[1:3], bool)
        for r, c in bounds:
            inside[r[0] : r[1], c[0] : c[1]] = True
        errors[name] = {
            "forward": float(np.max(np.abs(np.asarray(y)[0] - np.stack(loops)))),
            "outside": float(np.abs(dx[~inside]).sum()),
            "sum": float(dx.sum() - y.size),
        }
    out.heading("Regions given as data")
    out.text(
        "The regions are an input like the image, so each image can bring its own. Here one image "
        "under three sets of them. The backward pass gives each region's gradient to the place of "
        "its maximum, and none to what lies in no region."
    )
    rows = [
        [name, len(sets[name]), *(f"{v:.0e}" for v in e.values())] for name, e in errors.items()
    ]
    columns = ["regions", "number", "error against loops", "gradient outside", "gradient lost"]
    out.table("Max over regions", columns, rows)
    out.result("regions_given", errors)
    pictures.regions(out, np.asarray(maps)[0].max(axis=-1), sets)
    worst = max(abs(v) for e in errors.values() for v in e.values())
    out.claim("B15", "The same image pooled over given regions: error of values and gradient", "0",
              f"{worst:.0e}", worst == 0)  # fmt: skip


def box_of_ink(images):
    """[start, stop) of the rows and columns with ink, for each image: int (N, 2, 2)."""
    boxes = []
    for image in np.asarray(images)[..., 0] > 0.3:
        places = [np.flatnonzero(image.any(axis=axis)) for axis in (1, 0)]
        boxes.append([(p[0], p[-1] + 1) if p.size else (0, len(image)) for p in places])
    return np.array(boxes, np.int32)


def fit(features, labels, ridge=RIDGE):
    """Weights of a ridge regression on one-hot labels; the last row is the constant."""
    x = np.column_stack([features, np.ones(len(features))]).astype(np.float64)
    penalty = ridge * len(x) * np.mean(x[:, :-1] ** 2) * np.eye(x.shape[1])
    penalty[-1, -1] = 0
    return np.linalg.solve(x.T @ x + penalty, x.T @ np.eye(10)[labels])


def right(w, features, labels):
    """Which examples are classified rightly: bool (N,)."""
    return (features @ w[:-1] + w[-1]).argmax(axis=1) == labels


def placed(images, side, rng):
    """Each image at a random place of an empty one of side + 4 pixels, 2 of them margin."""
    fields = np.zeros((len(images), side + 4, side + 4, 1), np.float32)
    places = rng.integers(2, side - 13, (len(images), 2))
    for field, image, (top, left) in zip(fields, images, places, strict=True):
        field[top : top + 16, left : left + 16] = image
    return fields


def over_grid(name, fields, side):
    """3×3 regions of the maps for every image: over all of it, or over its ink."""
    if name == "the image":
        return for_all(grid((0, 0), (side, side), 3), fields)
    boxes = np.clip(box_of_ink(fields) - 2, 0, side)
    return np.stack([grid(box[:, 0], box[:, 1], 3) for box in boxes])


def moving(out, seed):
    """Digits at random places of a larger image: a fixed grid, and one that follows the ink."""
    data, rng = mnist5k(16, images=True), np.random.default_rng(seed)
    sides, scores = (16, 20, 24, 32), {}
    for side in out.progress(sides, "moving digits"):
        # a margin of 2 pixels, which the filters take off: maps have `side` places
        train = placed(data.x_train, side, rng)
        test = placed(data.x_test, side, rng)
        for name in ("the image", "the ink"):
            features = [pool(x, over_grid(name, x, side)) for x in (train, test)]
            w = fit(np.asarray(features[0]), data.y_train)
            scores[name, side] = float(right(w, np.asarray(features[1]), data.y_test).mean())
    out.text(
        "What this is good for: digits of 16×16 pixels at random places of larger images. A 3×3 "
        "grid over the image is held against a 3×3 grid over the box that holds the ink, which "
        "each image brings with it; the features (8 edge maps × 9 means) go into a ridge "
        "regression."
    )
    rows = [[name, *(f"{scores[name, s]:.1%}" for s in sides)] for name in ("the image", "the ink")]
    out.table(
        "Test accuracy, by side of the image", ["grid over", *(f"{s}×{s}" for s in sides)], rows
    )
    out.result("regions_moving", {f"{name}, {side}": v for (name, side), v in scores.items()})
    fixed, follows = scores["the image", 32], scores["the ink", 32]
    out.claim("B15", "Regions that follow the input beat fixed ones for digits anywhere in 32×32",
              "higher accuracy", f"{follows:.1%} against {fixed:.1%}", follows > fixed)  # fmt: skip


def columns_of(chosen):
    """The columns of pooled features that belong to these regions."""
    return (np.asarray(chosen)[..., None] * FILTERS + np.arange(FILTERS)).reshape(
        *np.shape(chosen)[:-1], -1
    )


def greedy(train, train_labels, held, held_labels, candidates, count):
    """Regions added one by one, each time the one with the lowest validation error.

    Every trial is a ridge regression on the features chosen so far and those of one candidate;
    all of them take their parts from one matrix of products. Ties go to the lower squared error.
    """
    scale = np.sqrt(np.mean(train**2))
    x = np.column_stack([train / scale, np.ones(len(train))]).astype(np.float64)
    h = np.column_stack([held / scale, np.ones(len(held))]).astype(np.float64)
    products, targets = x.T @ x, x.T @ np.eye(10)[train_labels]
    wanted, chosen, errors = np.eye(10)[held_labels], [], []
    for _ in range(count):
        trials = []
        for candidate in range(candidates):
            part = np.append(columns_of([*chosen, candidate]), len(products) - 1)
            penalty = RIDGE * len(x) * np.eye(len(part))
            penalty[-1, -1] = 0
            w = np.linalg.solve(products[np.ix_(part, part)] + penalty, targets[part])
            answer = h[:, part] @ w
            wrong = np.mean(answer.argmax(axis=1) != held_labels)
            trials.append((float(wrong), float(np.mean((answer - wanted) ** 2)), candidate))
        wrong, _, best = min(trials)
        chosen.append(best)
        errors.append(wrong)
    return chosen, errors


def learned(out, seed):
    """One pooling structure for all images, chosen on validation data, against a fixed grid."""
    data = mnist5k(16, images=True)
    side = data.x_train.shape[1] - 4
    lines = range(0, side + 1, STEP)
    spans = [(a, b) for a in lines for b in lines if a < b]
    candidates = np.array([(rows, cols) for rows in spans for cols in spans], np.int32)
    everything = np.asarray(pool(data.x_train, for_all(candidates, data.x_train)))
    test = np.asarray(pool(data.x_test, for_all(candidates, data.x_test)))
    # the same split for the features as for the images they are of
    split = validation_split(data._replace(x_train=everything), share=0.25, seed=seed)
    x, labels, held, held_labels = split.x_train, split.y_train, split.x_test, split.y_test
    rng, scores, structures, gains = np.random.default_rng(seed), {}, {}, {}
    chosen, course = greedy(x, labels, held, held_labels, len(candidates), max(COUNTS))
    index = {region.tobytes(): i for i, region in enumerate(candidates)}
    for count in COUNTS:
        fixed = [index[region.tobytes()] for region in grid((0, 0), (side, side), int(count**0.5))
                 .astype(np.int32)]  # fmt: skip
        drawn = [rng.choice(len(candidates), count, replace=False) for _ in range(RANDOM)]
        structures[count] = {"grid": fixed, "learned": chosen[:count]}

        def score(regions):
            part = columns_of(regions)
            on_held = right(fit(x[:, part], labels), held[:, part], held_labels)
            on_test = right(fit(everything[:, part], data.y_train), test[:, part], data.y_test)
            return float(on_held.mean()), on_test

        hits = {name: score(regions) for name, regions in structures[count].items()}
        scores[count] = {name: (valid, float(hit.mean())) for name, (valid, hit) in hits.items()}
        several = [(valid, float(hit.mean())) for valid, hit in map(score, drawn)]
        scores[count]["random"] = tuple(np.mean(several, axis=0).tolist())
        # the two classify the same digits: the spread of the difference, digit by digit
        gain = hits["learned"][1].astype(float) - hits["grid"][1]
        gains[count] = float(gain.mean()), float(gain.std() / len(gain) ** 0.5)
    out.heading("One structure learned for all images")
    out.text(
        f"All {len(candidates)} rectangles on a map of {side}×{side} with corners on every second "
        f"line are candidates. Starting from none, the one is added that lowers the validation "
        f"error ({len(held):,} of the training digits) most; the classifier is a ridge regression "
        "on the means over the chosen regions. The structure is then the same for every image. "
        "Test accuracy is with weights fitted to all training digits; no choice looks at the test "
        f"digits. Random: mean of {RANDOM} draws of candidates."
    )
    rows = [
        [count, name, f"{on_held:.1%}", f"{on_test:.1%}"]
        for count in COUNTS
        for name, (on_held, on_test) in scores[count].items()
    ]
    out.table("Structures of equally many regions", ["regions", "structure", "validation", "test"],
              rows)  # fmt: skip
    out.result("structure", {f"{n}, {name}": v for n in COUNTS for name, v in scores[n].items()})
    out.result("structure_regions", candidates[chosen])
    out.result("structure_course", course)
    for count in COUNTS:
        gain, error = gains[count]
        out.claim("B15", f"{count} regions learned once beat the fixed grid of as many: gain in "
                  "test accuracy, with its standard error", "above two standard errors",
                  f"{100 * gain:.1f} ± {100 * error:.1f} points", gain > 2 * error)  # fmt: skip
    mean = np.asarray(detect(jnp.asarray(data.x_train[:1000]))).mean(axis=(0, 3))
    pictures.structure(out, mean, candidates, structures)
