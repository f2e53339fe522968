"""Does a network trained on clothes read digits from fewer examples?

What the source says (A8): transfer learning is what comes next. What one expects of it: a network
pretrained on much data of one kind reads data of another kind from fewer examples, frozen or
fine-tuned, and the gain is largest where examples are few.

What was found, with a small convolutional network, pretrained on 60,000 moved and mirrored images
of Fashion-MNIST (85.9 % of its test images right) and trained on 10, 100 or 1,000 MNIST digits;
every method with learning rates chosen for it; points of test accuracy, ± one standard error over
eight subsets. Here the expectation fails, and no claim holds in full:

- Fine-tuned as a whole the network is no better than from scratch: −3.2 ± 2.3 points with 10 digits
  (44.9 against 48.1 %), −1.0 ± 0.6 with 100 and +0.1 ± 0.3 with 1,000. Pretrained convolutions
  under new dense layers do not harm, and hardly help: +1.7 ± 1.3, −0.1 ± 0.8 and +0.2 ± 0.2.
- Something is transferred by the convolutions. Frozen, they beat frozen random ones by 1.6 ± 0.6
  points with 100 digits and 2.3 ± 0.3 with 1,000, and then lose no more than 0.9 points against
  training everything, with 3,424 weights fewer to train.
- What the dense layer above has learned about clothes is in the way. A frozen trunk with a new last
  layer is 10 to 15 points behind training from scratch; with 10 digits a frozen random trunk is
  better by 6.7 ± 2.4 points, and only with 1,000 is the pretrained one, by 2.8 ± 0.6.

A likely reason: few strokes can be learned from clothes, and the filters of so small a network are
learned from 100 digits as well. Nothing is said here about larger networks or nearer tasks.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdl
from experiments.framework.run import Run
from experiments.framework.settings import Checked, Count
from experiments.transfer.findings import claims, draw, in_words
from jaxdl.data import augment, fashion_mnist, mnist5k, validation_split
from jaxdl.train import TrainState, evaluate, init_state, make_epoch, make_step, train

LOSS = jaxdl.softmax_cross_entropy()
HE = jax.nn.initializers.he_normal()
PARTS = ("convolutions", "hidden", "last")  # of the network; the first two are the trunk
# Of these parts, how many come from pretraining and how many are held fixed.
METHODS = {
    "from scratch": (0, 0),
    "fine-tuned": (2, 0),
    "fine-tuned, convolutions alone": (1, 0),
    "frozen convolutions": (1, 1),
    "frozen random convolutions": (0, 1),
    "frozen trunk": (2, 2),
    "frozen random trunk": (0, 2),
}
SHARES = (1.0, 0.1)  # of the new layers' learning rate, for pretrained ones that are trained on
TUNING_SEED = 1000  # its subsets and weights choose learning rates and are not reported


@dataclass(frozen=True)
class Settings(Checked):
    pretrain_images: Count = 60_000
    """Fashion-MNIST images to pretrain on, of its 60,000; fewer are faster."""
    pretrain_epochs: Count = 12
    """Passes over them."""
    maps: tuple[int, int] = (8, 16)
    """Kernels of the two convolutions."""
    hidden: Count = 64
    """Units of the dense layer behind them, the last of the trunk."""
    sizes: tuple[int, ...] = (10, 100, 1000)
    """Digits to train on, equally many of each class."""
    steps: Count = 300
    """Steps of training on the digits, the same for every method and size."""
    batch: Count = 50
    """Digits a step; all of them where there are fewer."""
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    """Learning rates of Adam to choose from, on digits that are neither trained on nor tested.

    Ten times these where the last layer alone is trained.
    """
    tuning: Count = 3
    """Subsets to choose them on, none of which is reported."""
    seeds: Count = 8
    """Subsets of the digits, each with its own initial weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = [n for n in self.sizes if n < 10 or n % 10 or n > 3000]
        if wrong or not self.sizes or sorted(set(self.sizes)) != list(self.sizes):
            self.refuse(
                "sizes must be rising multiples of 10 in 10 … 3000 (ten classes), got "
                f"{self.sizes}; e.g. {Settings.sizes}"
            )
        if not self.rates or min(self.rates) <= 0:
            self.refuse(
                f"rates must be above 0, at least one, got {self.rates}; e.g. {Settings.rates}"
            )


def network(settings, held=0):
    """(N, 28, 28, 1) to logits, in three `PARTS`, the first `held` of them frozen.

    Two stages of convolution and pooling; a dense layer; the last layer.
    """
    stages = []
    for features in settings.maps:
        stages += [jaxdl.conv(features, 5, w_init=HE), jaxdl.relu(), jaxdl.max_pool(2)]
    hidden = jaxdl.serial(jaxdl.dense(settings.hidden, w_init=HE), jaxdl.relu())
    parts = [jaxdl.serial(*stages, jaxdl.flatten()), hidden, jaxdl.dense(10)]
    parts = [jaxdl.frozen(p) if i < held else p for i, p in enumerate(parts)]
    return jaxdl.serial(**dict(zip(PARTS, parts, strict=True)))


def sizes_of_parts(settings):
    params = jax.eval_shape(network(settings).init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    return [sum(leaf.size for leaf in jax.tree.leaves(params[part])) for part in PARTS]


def run(settings: Settings, out: Run) -> None:
    clothes, digits = fashion_mnist(), mnist5k(28, images=True)
    if settings.pretrain_images > len(clothes.x_train):
        raise ValueError(
            f"transfer: pretrain_images must be at most {len(clothes.x_train)}, what Fashion-MNIST "
            f"has, got {settings.pretrain_images}; take fewer"
        )
    out.result("data_sha256", {"pretraining": clothes.fingerprint, "digits": digits.fingerprint})
    pretrained = pretrain(settings, out, clothes)
    pool = validation_split(digits, share=0.25)  # the rates are chosen on its test part
    fit = fitting(settings, pool, pretrained)
    rates = choose_rates(settings, out, fit, pool)
    accuracy = compare(settings, out, fit, digits, rates)
    report(settings, out, accuracy, rates)
    draw(out, settings.sizes, accuracy)
    claims(out, settings.sizes, accuracy)


def pretrain(settings, out, clothes):
    """Train on images of clothes; the parameters of the trunk."""
    batch = min(100, settings.pretrain_images)
    x = jnp.asarray(clothes.x_train[: settings.pretrain_images])
    y = jnp.asarray(clothes.y_train[: settings.pretrain_images])
    model = network(settings)
    steps = settings.pretrain_epochs * (len(x) // batch)
    tx = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    step = make_step(model, LOSS, tx)
    epoch_fn = make_epoch(step, batch=batch, prepare=as_floats, augment=augment.batched(vary))
    state = init_state(model, tx, as_floats(x[:1]), 0)
    bar = out.progress(settings.pretrain_epochs, "pretraining on clothes")
    course = train(epoch_fn, state, x, y, settings.pretrain_epochs)
    for epoch, (state, metrics) in zip(bar, course, strict=True):  # noqa: B007
        out.log(pretrain_epoch=epoch + 1, loss=float(metrics["loss"].mean()))
    x_test = as_floats(jnp.asarray(clothes.x_test))
    found = float(evaluate(model, LOSS, state.params, x_test, clothes.y_test).accuracy)
    sizes = sizes_of_parts(settings)
    out.heading("Pretraining on clothes")
    out.text(
        f"{len(x):,} images of Fashion-MNIST, {settings.pretrain_epochs} epochs, moved by up to 4 "
        "pixels and mirrored at random, so that the trunk learns more than their usual places: "
        f"test accuracy {found:.1%} on clothes. The trunk is kept: {sizes[0]:,} parameters of two "
        f"convolutions and {sizes[1]:,} of a dense layer. The last layer, of {sizes[2]:,}, is "
        "thrown away."
    )
    out.result("pretraining_test_accuracy", found)
    return jax.device_get(state.params)


def as_floats(x):
    return x.astype(jnp.float32) / 255


def vary(key, image):
    """The image moved by up to 4 pixels and mirrored or not: digits are not clothes."""
    shift_key, flip_key = jax.random.split(key)
    return augment.random_flip(flip_key, augment.random_shift(shift_key, image, 4))


def fitting(settings, pool, pretrained):
    """A function (method, size, seed, rate, share, x, y) -> accuracy on x and y, and parameters.

    It trains by this method on one subset. Pretrained layers that are trained on have `share` of
    the learning rate.
    """
    compiled = {held: compile_fit(settings, held) for held in range(3)}
    init = jax.jit(network(settings).init)

    def fit(method, size, seed, rate, share, x, y):
        taken, held = METHODS[method]
        x_train, y_train = subset(pool, size, seed)
        init_key, key = jax.random.split(jax.random.key(seed))
        params = init(init_key, x_train[:1])
        params = params | {part: pretrained[part] for part in PARTS[:taken]}
        rates = dict.fromkeys(PARTS, rate) | dict.fromkeys(PARTS[:taken], rate * share)
        found, trained = compiled[held](x_train, y_train, params, rates, key, x, y)
        before, after = ([tree[part] for part in PARTS[:held]] for tree in (params, trained))
        same = jax.tree.map(lambda a, b: bool((a == b).all()), before, after)
        assert all(jax.tree.leaves(same)), "frozen layers must not move"
        return float(found), trained

    return fit


def compile_fit(settings, held):
    """A function (x, y, parameters, rate of each part, key, x, y) -> (accuracy, parameters)."""
    model = network(settings, held)

    @jax.jit
    def fit(x, y, params, rates, key, x_scored, y_scored):
        decay = optax.cosine_decay_schedule(1.0, settings.steps)
        each = optax.stateless(lambda updates, _: jax.tree.map(
            lambda rate, part: jax.tree.map(lambda u: rate * u, part), rates, updates
        ))  # fmt: skip
        tx = optax.chain(optax.adam(decay), each)
        step = make_step(model, LOSS, tx)
        start = TrainState(params, tx.init(params), jnp.zeros((), jnp.int32), key)
        batch = min(settings.batch, len(x))

        def one(state, key):
            rows = jax.random.choice(key, len(x), (batch,), replace=False)
            return step(state, x[rows], y[rows])

        state, _ = jax.lax.scan(one, start, jax.random.split(key, settings.steps))
        right = model.apply(state.params, x_scored).argmax(axis=-1) == y_scored
        return right.mean(), state.params

    return fit


def subset(pool, size, seed):
    """`size` digits, as many of each class; the smaller sets of a seed lie in the larger ones."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pool.y_train))
    rows = [order[pool.y_train[order] == digit][: size // 10] for digit in range(10)]
    rows = np.concatenate(rows)
    return jnp.asarray(pool.x_train[rows]), jnp.asarray(pool.y_train[rows])


def choices(settings, method):
    """(learning rate, share of it for pretrained layers) to choose from."""
    taken, held = METHODS[method]
    rates = [10 * rate if held == 2 else rate for rate in settings.rates]
    return [(rate, share) for rate in rates for share in SHARES[: 1 + (taken > held)]]


def choose_rates(settings, out, fit, pool):
    """For each method and size the choice with the best mean validation accuracy."""
    x, y = jnp.asarray(pool.x_test), jnp.asarray(pool.y_test)
    chosen = {}
    work = [(method, size) for size in settings.sizes for method in METHODS]
    for method, size in out.progress(work, "learning rates"):
        found = {}
        for choice in choices(settings, method):
            seeds = range(TUNING_SEED, TUNING_SEED + settings.tuning)
            found[choice] = np.mean([fit(method, size, s, *choice, x, y)[0] for s in seeds])
        chosen[method, size] = max(found, key=lambda choice: found[choice])
        named = {f"{rate:g}, {share:g}": a for (rate, share), a in found.items()}
        out.log(method=method, digits=size, validation=named)
    return chosen


def compare(settings, out, fit, digits, rates):
    """Test accuracy of every method and size, one for each seed."""
    x, y = jnp.asarray(digits.x_test), jnp.asarray(digits.y_test)
    accuracy = {(method, size): [] for method in METHODS for size in settings.sizes}
    work = [(method, size, seed) for method, size in accuracy for seed in range(settings.seeds)]
    for method, size, seed in out.progress(work, "training on digits"):
        found, _ = fit(method, size, seed, *rates[method, size], x, y)
        accuracy[method, size].append(found)
        out.log(method=method, digits=size, seed=seed, test_accuracy=found)
    return {key: np.array(values) for key, values in accuracy.items()}


def report(settings, out, accuracy, rates):
    sizes = sizes_of_parts(settings)
    out.heading("Digits")
    out.text(
        "From scratch: all weights drawn at random. Fine-tuned: the pretrained trunk and a new "
        "last layer, all trained, or the pretrained convolutions alone and two new dense layers. "
        "Frozen trunk: the pretrained trunk is held fixed (jaxdl.frozen) and the last layer alone "
        "is trained. Frozen convolutions: they alone are held fixed. Random: the same with held "
        "weights that were never trained, to see what of it is pretraining."
    )
    out.text(
        f"Every training takes {settings.steps} steps of Adam. Its learning rate is one of "
        f"{', '.join(f'{r:g}' for r in settings.rates)}, or ten times that where the last layer "
        "alone is trained, and pretrained layers that are trained on have all of it or a tenth: "
        f"whatever is best on {settings.tuning} other subsets and a validation split. Mean ± "
        f"standard deviation over {settings.seeds} subsets, accuracy on test digits; the subsets "
        "are the same for all methods, the pretraining is one."
    )
    rows = [
        [method, f"{sum(sizes[held:]):,}",
         *(f"{100 * accuracy[method, n].mean():.1f} ± {100 * accuracy[method, n].std():.1f} %"
           for n in settings.sizes)]
        for method, (_, held) in METHODS.items()
    ]  # fmt: skip
    columns = ["method", "trained parameters", *(f"{n:,} digits" for n in settings.sizes)]
    out.table("Test accuracy", columns, rows)
    rows = [[m, *(in_words(*rates[m, n]) for n in settings.sizes)] for m in METHODS]
    out.table("Learning rates chosen", ["method", *columns[2:]], rows)
    out.result("test_accuracy", {f"{m}, {n}": v for (m, n), v in accuracy.items()})
    out.result("learning_rates", {f"{m}, {n}": v for (m, n), v in rates.items()})
