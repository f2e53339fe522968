"""Part of `pooling`: networks trained with it, over channels and with regions of several sizes."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdl
from experiments.pooling import pictures
from jaxdl.data import mnist5k
from jaxdl.data.augment import rotate, shift
from jaxdl.train import evaluate, init_state, make_epoch, make_step, train

TURNS = (-60, 0, 60)  # degrees
SWEEP = range(-120, 121, 10)
SIZES = (1, 2, 4, 8, 16)  # of pooling regions on a map of 16×16
TURN = jax.jit(jax.vmap(rotate, (0, None)))


def turned_digits(x, y):
    """Fives and twice as many other digits, each in every turn: images, is it a five, turn."""
    chosen = np.concatenate([x[y == 5], x[y != 5][: 2 * np.sum(y == 5)]])
    is_five = np.arange(len(chosen)) < np.sum(y == 5)
    images = np.concatenate([TURN(chosen, float(angle)) for angle in TURNS])
    turns = np.repeat(np.arange(len(TURNS)), len(chosen))
    return images, np.tile(is_five, len(TURNS)).astype(np.float32)[:, None], turns


def filter_answers(params, images):
    """The answer of each whole-image filter: (N, filters)."""
    filters = params["w"].shape[-1]
    return np.asarray(jaxdl.conv(filters, 16).apply(params, images))[:, 0, 0]


def train_filters(settings, out, x, target, count):
    """One network for each seed: its filters, and its last mean training loss."""
    model = jaxdl.serial(jaxdl.conv(count, 16), jaxdl.maxout(count), jaxdl.flatten())
    tx = optax.adam(3e-3)
    epoch = make_epoch(make_step(model, jaxdl.binary_cross_entropy(), tx), batch=60)
    trained = []
    for seed in out.progress(settings.filters_seeds, f"filters: {count}"):
        state = init_state(model, tx, x[:1], seed)
        *_, (state, metrics) = train(epoch, state, x, target, settings.filters_epochs)
        trained.append((jax.device_get(state.params["conv"]), float(metrics["loss"].mean())))
    return trained


def filters(settings, out):
    """Pooling over channels: is one filter learned for each way a 5 is turned?"""
    data = mnist5k(16, images=True)
    x, target, _ = turned_digits(data.x_train, data.y_train)
    x_test, target_test, turns = turned_digits(data.x_test, data.y_test)
    fives = [x_test[(target_test[:, 0] == 1) & (turns == i)] for i in range(len(TURNS))]
    networks = {count: train_filters(settings, out, x, target, count) for count in (3, 1)}
    accuracy = {
        count: [float(np.mean((filter_answers(params, x_test).max(1) > 0) == target_test[:, 0]))
                for params, _ in trained]
        for count, trained in networks.items()
    }  # fmt: skip
    winners = [
        np.array([np.bincount(filter_answers(params, images).argmax(1), minlength=3) / len(images)
                  for images in fives])
        for params, _ in networks[3]
    ]  # fmt: skip
    orders = list(itertools.permutations(range(3)))
    match = [max(float(np.mean(won[range(3), order])) for order in orders) for won in winners]
    used = [int(np.sum(won.max(axis=0) > 1 / 3)) for won in winners]
    best = min(range(settings.filters_seeds), key=lambda seed: networks[3][seed][1])
    won, main = winners[best], winners[best].argmax(axis=1)

    out.heading("Pooling over channels")
    out.text(
        f"Is it a 5? Digits of 16×16 pixels, each turned by {', '.join(map(str, TURNS))} degrees; "
        "the network has three filters as large as the image and takes the maximum over them "
        "(maxout). Nothing tells it how a digit is turned. Beside it, the same with one filter. A "
        f"filter is in use if it wins a third of the 5s of some turn. {settings.filters_seeds} "
        "seeds; shown is the one with the lowest training loss."
    )
    columns = ["", "filter 1", "filter 2", "filter 3"]
    rows = [[f"5 turned by {a}°", *(f"{v:.1%}" for v in won[i])] for i, a in enumerate(TURNS)]
    out.table(f"Which filter wins, test digits, seed {best}", columns, rows)
    rows = [
        [seed, used[seed], f"{match[seed]:.1%}", f"{networks[3][seed][1]:.3f}",
         f"{accuracy[3][seed]:.1%}", f"{accuracy[1][seed]:.1%}"]
        for seed in range(settings.filters_seeds)
    ]  # fmt: skip
    columns = ["seed", "filters in use", "5s won by the filter of their turn", "training loss",
               "accuracy, 3 filters", "accuracy, 1 filter"]  # fmt: skip
    out.table("All seeds; filters are given to turns so that most 5s fit", columns, rows)
    out.result("filters", {
        "seed": best, "winners": won, "used": used, "match": match,
        "accuracy": {str(count): values for count, values in accuracy.items()},
    })  # fmt: skip
    upright = data.x_test[data.y_test == 5]
    swept = [[filter_answers(networks[count][best][0], TURN(upright, float(a))) for a in SWEEP]
             for count in (3, 1)]  # fmt: skip
    means = [images.mean(axis=0)[..., 0] for images in fives]
    w = networks[3][best][0]["w"][:, :, 0]
    pictures.filters(out, TURNS, w, means, won, list(SWEEP), *map(np.stack, swept))

    least = won.max(axis=1).min()
    out.claim("B12", "In the run with the lowest training loss each turn of the 5 is won mostly by "
              "a filter of its own", "3 filters, > 50 % of the 5s of their turn",
              f"{len(set(main))} filters, {least:.0%} or more",
              len(set(main)) == 3 and bool(least > 0.5))  # fmt: skip
    runs = used.count(3)
    out.claim("B12", "Every run puts all three filters to use: runs that do",
              settings.filters_seeds, runs, runs == settings.filters_seeds)  # fmt: skip
    three, one = np.mean(accuracy[3]), np.mean(accuracy[1])
    out.claim("B12", "Three filters under one maximum beat one filter: mean test accuracy",
              "higher", f"{three:.1%} against {one:.1%}", bool(three > one))  # fmt: skip


def sizes(settings, out):
    """Larger regions: less memory; how much accuracy do they cost?"""
    data, loss, tx = mnist5k(16, images=True), jaxdl.softmax_cross_entropy(), optax.adam(2e-3)
    found, rows, labels = {}, [], jnp.asarray(data.y_test)
    moved = jnp.concatenate([
        jax.vmap(shift, (0, None, None))(jnp.asarray(data.x_test[part::4]), down, right)
        for part, (down, right) in enumerate(((0, 2), (2, 0), (0, -2), (-2, 0)))
    ])  # fmt: skip
    moved_labels = jnp.asarray(np.concatenate([data.y_test[part::4] for part in range(4)]))
    for size in out.progress(SIZES, "region sizes"):
        pool = (
            [] if size == 1 else [jaxdl.max_pool(size) if size < 16 else jaxdl.global_pool("max")]
        )
        model = jaxdl.serial(jaxdl.conv(16, 5, padding="same"), jaxdl.relu(), *pool,
                             jaxdl.flatten(), jaxdl.dense(10))  # fmt: skip
        measured = jaxdl.summary(model, jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32))
        epoch = make_epoch(make_step(model, loss, tx), batch=50)
        accuracy, after_move, seconds = [], [], []
        tests = ((jnp.asarray(data.x_test), labels, accuracy), (moved, moved_labels, after_move))
        for seed in range(settings.sizes_seeds):
            state, start = init_state(model, tx, data.x_train[:1], seed), time.perf_counter()
            course = train(epoch, state, data.x_train, data.y_train, settings.sizes_epochs)
            for now, _ in course:
                seconds.append(time.perf_counter() - start)
                state, start = now, time.perf_counter()
            for images, truth, scores in tests:
                score = evaluate(model, loss, state.params, images, truth)
                scores.append(float(score.accuracy))
        found[size] = {
            "accuracy": accuracy,
            "accuracy_moved": after_move,
            "kept_bytes": measured.residual_bytes,
            "behind_bytes": sum(row.residual_bytes for row in measured.rows[2:]),
            "params": measured.params,
            "seconds": float(np.median(seconds)),
        }
        rows.append([
            f"{size}×{size}", 16 * (16 // size) ** 2, f"{measured.params:,}",
            f"{found[size]['behind_bytes'] / 1e3:.2f}", f"{measured.residual_bytes / 1e3:.1f}",
            f"{found[size]['seconds']:.2f}", f"{np.mean(accuracy):.1%} ± {np.std(accuracy):.1%}",
            f"{np.mean(after_move):.1%} ± {np.std(after_move):.1%}",
        ])  # fmt: skip
    out.heading("Size of the regions: memory, time, accuracy")
    out.text(
        "One convolution (16 filters of 5×5 on 16×16 places), relu, max pooling over regions that "
        "do not overlap, and one dense layer for ten digits. Kept for the backward pass, per "
        "image: by the pooling and what comes after it, and by all layers. Seconds are medians of "
        f"an epoch of 4,000 digits; accuracy on 1,000 test digits after {settings.sizes_epochs} "
        f"epochs, mean and deviation of {settings.sizes_seeds} seeds, and on the same digits moved "
        "by 2 pixels up, down, left or right, which training has not seen. 1×1 is no pooling."
    )
    columns = ["regions", "features", "parameters", "kB behind the detector", "kB in all",
               "s an epoch", "test accuracy", "moved by 2 pixels"]  # fmt: skip
    out.table("One size after the other", columns, rows)
    out.result("sizes", {str(size): values for size, values in found.items()})
    pictures.sizes(out, found)
    behind = [values["behind_bytes"] for values in found.values()]
    out.claim("D11", "Larger regions keep less memory behind the detector: kB from 1×1 to 16×16",
              "falls", ", ".join(f"{b / 1e3:.2f}" for b in behind),
              all(a > b for a, b in itertools.pairwise(behind)))  # fmt: skip
    means = {size: float(np.mean(values["accuracy"])) for size, values in found.items()}
    best = max(means, key=means.__getitem__)
    spread = max(float(np.std(values["accuracy"])) for values in found.values())
    out.claim("D11", "Regions that are too large lose accuracy: best size against 16×16",
              "more than two deviations", f"{means[best]:.1%} at {best}×{best}, {means[16]:.1%}",
              means[best] - means[16] > 2 * spread)  # fmt: skip
    out.claim("D11", "A little pooling is better than none: accuracy at 2×2 or 4×4 against 1×1",
              "higher", f"{max(means[2], means[4]):.1%} against {means[1]:.1%}",
              max(means[2], means[4]) > means[1])  # fmt: skip
    after = {size: float(np.mean(values["accuracy_moved"])) for size, values in found.items()}
    bought = f"{after[8]:.1%} against {after[1]:.1%}"
    out.claim("D11", "What larger regions buy, digits moved by 2 pixels: accuracy at 8×8 against "
              "1×1", "higher", bought, after[8] > after[1])  # fmt: skip
