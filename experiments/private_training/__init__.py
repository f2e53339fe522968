"""What does private training cost, and does clipping alone protect anyone?

What the source claims (DP-SGD, Abadi et al. 2016, arXiv:1607.00133): accuracy falls with the noise;
larger batches pay at the same ε; clipping each layer by itself is another choice (McMahan et al.
2018, arXiv:1710.06963, with C/√L each). Clipping bounds what an example does, and hides nobody: a
threshold on the loss tells members from others (Yeom et al. 2018, arXiv:1709.01604).

What was found, with a small convolutional network of Flax, the same learning rate for every noise,
5 seeds of digits (1,437 of 8×8 pixels) and 3 of Fashion-MNIST (60,000 at 14×14), δ = 1e-5:

- Accuracy falls with the noise, at fixed steps, and clipping itself costs little. Digits: 97.6 %
  without both, 96.8 % clipped, 93.7 % at σ = 1 (ε = 9.6), 86.7 % at σ = 4 (1.3), 76.0 % at σ = 8
  (0.61). Fashion-MNIST, of which each step sees a smaller share: 85.8, 85.4, 79.5 (ε = 0.97), 73.7
  (0.068) and 70.2 % (0.031).
- Larger batches pay at ε = 2 if there are as many steps: from a quarter to four times the usual
  batch 84.8, 88.9, 89.8 % of digits and 75.2, 80.6, 83.8 % of Fashion-MNIST. If they may see only
  as many examples, the usual batch is best: 87.2, 88.9, 84.7 % and 75.8, 80.6, 80.2 %. The largest
  have the least noise for each example, and too few steps.
- Clipping each of 3 layers to C/√3 gives what the whole norm gives (93.7 and 93.7 % at C = 1), each
  of 6 parameters to C/√6 a little less (92.2 %). C hardly matters between 0.1 and 10, since Adam
  takes out its scale.
- Clipping is not privacy. Of networks trained on 250 images until they know them by heart, a
  threshold on the loss tells members from others with an area of 0.67 under the curve and an
  advantage of 0.45 without clipping, 0.67 and 0.47 clipped only, 0.60 and 0.19 at σ = 1, 0.57 and
  0.12 at σ = 4 (ε = 4.9, which forbids only what is above 0.98). The test accuracy falls from 73.9
  to 58.5 % on the way. That one simple attack finds little proves nothing; ε does.

It takes about 7 minutes of processor time. Without the package dp-accounting, which is optional, no
ε is computed and batches are not compared; everything else runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np

from experiments.framework.run import Run
from experiments.framework.settings import Above0, Bound, Checked, Count, CountOr0, at_least
from experiments.private_training import accounting, pictures
from experiments.private_training.attack import Attacked, attack_networks
from experiments.private_training.training import PLAIN, WAYS, Recipe, Split, load, train
from experiments.private_training.training import accuracy as accuracy_of

_all_above_0 = Bound("must be above 0", lambda v: len(v) and min(v) > 0)
CHEAPER = 4  # expected batches are a quarter and four times the usual one


@dataclass(frozen=True)
class Settings(Checked):
    data: tuple[Literal["digits", "fashion"], ...] = ("digits", "fashion")
    """The 1,437 digits of 8×8 pixels; Fashion-MNIST at 14×14. The last one is attacked."""
    fashion_images: Annotated[int, at_least(64)] = 60_000
    """How many of Fashion-MNIST to train on: more of them, a smaller sampling rate and ε."""
    sigmas: Annotated[tuple[float, ...], _all_above_0] = (0.5, 1.0, 2.0, 4.0, 8.0)
    """Noise multipliers σ."""
    clip: Above0 = 1.0
    """C, the most that an example adds to the sum."""
    learning_rate: Above0 = 0.01
    """Of Adam, the same for every noise."""
    digits_batch: Count = 144
    """Digits expected in a batch, each drawn on its own."""
    digits_steps: Count = 150
    """Steps on digits."""
    digits_seeds: Count = 5
    """First weights, draws of examples and noise."""
    fashion_batch: Count = 256
    """The same of Fashion-MNIST."""
    fashion_steps: Count = 300
    """The same of Fashion-MNIST."""
    fashion_seeds: Count = 3
    """The same of Fashion-MNIST."""
    epsilon: Above0 = 2.0
    """ε at which batches are compared."""
    clips: Annotated[tuple[float, ...], _all_above_0] = (0.1, 1.0, 10.0)
    """C at which norms of the whole model, of layers and of parameters are compared."""
    members: Annotated[int, at_least(2)] = 250
    """Images of the training that is attacked."""
    attack_steps: Count = 400
    """Its steps, of a fifth of the members each."""
    attack_sigmas: Annotated[tuple[float, ...], _all_above_0] = (1.0, 4.0)
    """Its noise multipliers, beside none."""
    attack_seeds: Annotated[CountOr0, Bound("must not be 1", lambda v: v != 1)] = 6
    """Networks attacked of each kind, each with a threshold from the others; 0: no attack."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data or len(set(self.data)) < len(self.data):
            self.refuse(f"data must name one or two data sets, got {self.data}; e.g. digits")

    def recipe(self, name: str) -> Recipe:
        """Without noise."""
        batch = self.digits_batch if name == "digits" else self.fashion_batch
        steps = self.digits_steps if name == "digits" else self.fashion_steps
        return Recipe(batch, steps, clip=self.clip, learning_rate=self.learning_rate)

    def seeds(self, name: str) -> int:
        return self.digits_seeds if name == "digits" else self.fashion_seeds


def run(settings: Settings, out: Run) -> None:
    splits = {name: load(name, settings.fashion_images) for name in settings.data}
    for name, split in splits.items():
        batch, most = settings.recipe(name).batch, len(split.x) // CHEAPER
        if batch > most:
            raise ValueError(
                f"private_training: {name}_batch must be at most {most}, a quarter of the training "
                f"images, since batches of {CHEAPER} times the size are tried too, got {batch}; "
                "take less"
            )
        if 2 * settings.members > len(split.x):
            raise ValueError(
                f"private_training: members must be at most {len(split.x) // 2}, half of the "
                f"training images of {name}, got {settings.members}; take less"
            )
    out.result("epsilon_computed", accounting.library() is not None)
    if accounting.library() is None:
        out.text(accounting.MISSING)
    noise(settings, out, splits)
    if accounting.library() is not None:
        batches(settings, out, splits)
    ways(settings, out, next(iter(splits.values())))
    if settings.attack_seeds:
        membership(settings, out, list(splits.values())[-1])


def scores(out: Run, split: Split, recipe: Recipe, seeds: int) -> list[float]:
    """Test accuracy, one for each seed."""
    found = []
    for seed in range(seeds):
        params = train(split, recipe, seed)
        found.append(accuracy_of(params, split.x_test, split.y_test))
        out.log(data=split.name, recipe=recipe, seed=seed, test_accuracy=found[-1])
    return found


def spread(values, scale: float = 100, digits: int = 1) -> str:
    return f"{scale * np.mean(values):.{digits}f} ± {scale * np.std(values):.{digits}f}"


def written(epsilon: float | None) -> str:
    if epsilon is None:
        return "not computed"
    return "∞" if epsilon == float("inf") else f"{epsilon:.3g}"


def noise(settings: Settings, out: Run, splits: dict[str, Split]) -> None:
    """Accuracy over σ at fixed steps."""
    out.heading("Accuracy and noise")
    found, plain, epsilons = {}, {}, {}
    for name, split in splits.items():
        recipe, seeds = settings.recipe(name), settings.seeds(name)
        plain[name] = scores(out, split, replace(recipe, per=PLAIN), seeds)
        rows = [["neither", "–", "∞", spread(plain[name])]]
        for sigma in out.progress((0.0, *settings.sigmas), f"{name}, σ"):
            noisy = replace(recipe, sigma=sigma)
            epsilon = accounting.epsilon(noisy, len(split.x))
            values = scores(out, split, noisy, seeds)
            found.setdefault(name, {})[sigma] = values
            epsilons.setdefault(name, {})[sigma] = epsilon
            what = "clipped and noised" if sigma else "clipped"
            rows.append([what, f"{sigma:g}", written(epsilon), spread(values)])
        title = (
            f"{name}: {len(split.x):,} images, {recipe.batch} expected in a batch, "
            f"{recipe.steps} steps, C = {recipe.clip:g}"
        )
        out.table(title, ["gradients", "σ", "ε at δ = 1e-5", "test accuracy, %"], rows)
    out.result("accuracy_without_clipping", plain)
    out.result("accuracy_by_sigma", found)
    out.result("epsilon_by_sigma", epsilons)
    pictures.noise(out, found, plain, epsilons)


def batches(settings: Settings, out: Run, splits: dict[str, Split]) -> None:
    """Accuracy over the batch, σ chosen so that ε is the same."""
    out.heading("Larger batches at the same ε")
    found, chosen = {}, {}
    for name, split in splits.items():
        rows = []
        for way, recipe in out.progress(list(sizes(settings.recipe(name))), f"{name}, batches"):
            sigma = accounting.noise_for(settings.epsilon, recipe, len(split.x))
            values = scores(out, split, replace(recipe, sigma=sigma), settings.seeds(name))
            for key in ("as many steps", "as many examples") if way == "both" else (way,):
                found.setdefault(name, {}).setdefault(key, {})[recipe.batch] = values
                chosen.setdefault(name, {}).setdefault(key, {})[recipe.batch] = sigma
            rows.append([way, recipe.batch, recipe.steps, f"{sigma:.2f}",
                         f"{sigma / recipe.batch:.4f}", spread(values)])  # fmt: skip
        found[name] = {way: dict(sorted(of.items())) for way, of in found[name].items()}
        columns = ["compared at", "batch", "steps", "σ", "σ/batch", "test accuracy, %"]
        out.table(f"{name} at ε = {settings.epsilon:g}", columns, rows)
    out.result("accuracy_by_batch", found)
    out.result("sigma_by_batch", chosen)
    pictures.batches(out, found, settings.epsilon)


def sizes(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """The usual batch, smaller and larger ones: with as many steps, and with as many examples."""
    yield "both", recipe
    for batch in (max(1, recipe.batch // CHEAPER), CHEAPER * recipe.batch):
        yield "as many steps", replace(recipe, batch=batch)
        steps = max(1, round(recipe.steps * recipe.batch / batch))
        yield "as many examples", replace(recipe, batch=batch, steps=steps)


def ways(settings: Settings, out: Run, split: Split) -> None:
    """Norms of the whole model, of layers, of parameters: the same bound on the whole, and ε."""
    out.heading("Whose norm is clipped")
    out.text(
        "One norm clipped to C, or L of them to C/√L each: an example adds at most C to the whole "
        "sum in all three, so that the same noise gives the same ε."
    )
    found: dict[str, dict[float, list[float]]] = {}
    recipe = replace(settings.recipe(split.name), sigma=1.0)
    for per in out.progress(WAYS, "whose norm"):
        for clip in settings.clips:
            values = scores(out, split, replace(recipe, per=per, clip=clip),
                            settings.seeds(split.name))  # fmt: skip
            found.setdefault(per, {})[clip] = values
    rows = [[per, *map(spread, of.values())] for per, of in found.items()]
    columns = ["clipped by", *(f"C = {clip:g}" for clip in settings.clips)]
    out.table(f"Test accuracy on {split.name} at σ = 1, %", columns, rows)
    out.result("accuracy_by_norm_and_clip", found)


def membership(settings: Settings, out: Run, split: Split) -> None:
    """Whether members of a small training set are recognised by their losses."""
    out.heading("Who was in the training set?")
    out.text(
        f"Trained on {settings.members} images of {split.name} for {settings.attack_steps} steps, "
        "and attacked with a threshold on the loss, as many others beside them. The advantage is "
        "the share of members recognised less that of others taken for members. The last column is "
        "what no attack on one image can exceed at that ε."
    )
    usual = replace(settings.recipe(split.name), batch=max(1, settings.members // 5),
                    steps=settings.attack_steps)  # fmt: skip
    recipes = {"neither": replace(usual, per=PLAIN), "clipped only": usual} | {
        f"clipped, σ = {sigma:g}": replace(usual, sigma=sigma) for sigma in settings.attack_sigmas
    }
    found: dict[str, Attacked] = {}
    rows, epsilons = [], {}
    for name, recipe in out.progress(recipes.items(), "attacks"):
        this = found[name] = attack_networks(split, recipe, settings.members, settings.attack_seeds)
        epsilons[name] = accounting.epsilon(recipe, settings.members)
        bound = accounting.largest_advantage(epsilons[name])
        rows.append([
            name, written(epsilons[name]), spread(this.train_accuracy), spread(this.test_accuracy),
            spread(this.auc(), 1, 3), spread(this.advantage(), 1, 3),
            "not computed" if bound is None else f"{bound:.3f}",
        ])  # fmt: skip
    columns = ["gradients", "ε", "training, %", "test, %", "area under ROC", "advantage", "bound"]
    out.table("Membership inference", columns, rows)
    out.result("attack", {
        name: {
            "epsilon": epsilons[name], "auc": this.auc(), "advantage": this.advantage(),
            "train_accuracy": this.train_accuracy, "test_accuracy": this.test_accuracy,
        }
        for name, this in found.items()
    })  # fmt: skip
    pictures.roc(out, found)
