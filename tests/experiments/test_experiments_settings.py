"""Settings that cannot be are refused in one line that begins with the experiment's name."""

import importlib
from dataclasses import dataclass
from typing import Annotated

import pytest

from experiments.framework.discover import find_experiments
from experiments.framework.settings import Checked, Count, Counts, within

REFUSED = {
    "backprop_by_hand": [
        ({"steps": 0}, "backprop_by_hand: steps must be at least 1, got 0; the default is 10000"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0; the default is 0.5"),
    ],
    "convolution_algebra": [
        ({"template": 50}, r"template must be in 4 … side/4 \(40\), got 50"),
        ({"kernel_sizes": (99,)}, r"in 1 … fourier_side \(96\), got \(99,\)"),
        (
            {"dense_image": (280, 320)},
            r"dense_image .* 400 MB, got \(280, 320\); e\.g\. 56 64",
        ),
        ({"noise": (-1.0,)}, r"noise must be .*, none negative, got \(-1\.0,\)"),
        ({"repetitions": 0}, "repetitions must be at least 1, got 0; the default is 9"),
        ({"side": 20}, "side must be in 80 … 420"),
        ({"kernel_sizes": (4,)}, "must be odd numbers"),
    ],
    "digits": [
        ({"epochs": 0}, "digits: epochs must be at least 1, got 0; the default is 30"),
        (
            {"epochs": 0, "model": "mlp"},
            "digits: epochs must be at least 1, got 0; the default is 60",
        ),
        ({"seeds": 0}, "digits: seeds must be at least 1, got 0; the default is 5"),
        ({"dropout": 1.5}, r"digits: dropout is a share in \[0, 1\), got 1.5; e.g. 0.1"),
        ({"label_smoothing": 2}, r"digits: label_smoothing is a share in \[0, 1\), got 2"),
        ({"depth": -1}, "digits: depth must not be negative, got -1; 0 is none"),
        (
            {"learning_rate": 0},
            "digits: learning_rate must be above 0, got 0; the default",
        ),
        ({"label_smoothing": 0.1, "loss": "squared_error"}, "goes with loss cross_entropy, got sq"),
        ({"rotation": -1.0}, "digits: rotation must not be negative, got -1.0; 0 is none"),
        ({"shift": -1}, "digits: shift must not be negative, got -1; 0 is none"),
        ({"channels": ()}, r"digits: channels must be at least 1, got \(\); the default is \(32"),
        ({"channels": (4, 0)}, r"digits: channels must be at least 1, got \(4, 0\); the default"),
        ({"kernel": 0}, "digits: kernel must be at least 1, got 0; the default is 3"),
        (
            {"size": 0, "data": "mnist5k"},
            "digits: size must be at least 1, got 0; the default is 16",
        ),
        (
            {"size": 8},
            "size goes with data mnist5k, got size 8 with data digits8; leave size out, or take",
        ),
        (
            {"channels": (4,), "model": "mlp"},
            r"channels goes with model convnet, got channels \(4,\) with model mlp; leave chann",
        ),
        (
            {"kernel": 3, "model": "mlp"},
            "digits: kernel goes with model convnet, got kernel 3 with model mlp; leave kernel out",
        ),
    ],
    "fashion": [
        ({"epochs": 0}, "fashion: epochs must be at least 1, got 0; the default is"),
        ({"channels": ()}, r"must name the maps of at least one stage.*got channels \(\)"),
        ({"hidden": (0,)}, r"no layer be empty, got channels .* and hidden \(0,\)"),
        ({"dropout": 1.0}, r"fashion: dropout is a share in \[0, 1\), got 1.0"),
        ({"learning_rate": 0}, "fashion: learning_rate must be above 0, got 0"),
        ({"shift": -1}, "fashion: shift must not be negative, got -1; 0 is none"),
    ],
    "feature_engineering": [
        ({"most": 50}, "feature_engineering: most must be at least 100, got 50"),
    ],
    "hierarchical_features": [
        ({"units": 4}, "hierarchical_features: shown must be at most units"),
        ({"epochs": 0}, "hierarchical_features: epochs must be at least 1, got 0"),
    ],
    "inception_cost": [
        ({"repetitions": 0}, "repetitions must be at least 1, got 0; the default is 15"),
    ],
    "influence": [
        ({"images": 10}, "influence: images must be at least 64, got 10; the default is 8000"),
        ({"epochs": 2}, r"checkpoints must be at most epochs \(2\), got 4; take less"),
        ({"share": 0.0}, "influence: share must be above 0, got 0.0; the default is 0.08"),
        ({"share": 1.5}, r"influence: share is a share in \[0, 1\), got 1.5"),
        ({"seeds": 1}, r"retrained must be at most seeds \(1\), got 3; take less"),
    ],
    "linear_collapse": [
        ({"layers": 0}, "linear_collapse: layers must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"inputs": 10}, r"4 × width \(64\).*got 10; give more"),
    ],
    "locally_connected": [
        ({"maps": 0}, "locally_connected: maps must be at least 1, got 0; the default is 4"),
        ({"train_images": 5000}, "train_images must be in 1 … 4000, got 5000; the default is 4000"),
        ({"train_images": 20}, r"batch must be at most train_images \(20\), got 50; take less"),
        ({"size": 16}, "size must be in 1 … 15, so that pooling .* got 16; the default is 5"),
        ({"learning_rate": -1}, "learning_rate must be above 0, got -1; the default"),
    ],
    "mnist1d": [
        ({"seeds": 0}, "mnist1d: seeds must be at least 1, got 0; the default is 5"),
        ({"learning_rate": 0}, "mnist1d: learning_rate must be above 0, got 0"),
        ({"models": ("gru",)}, r"models must be one or more of logistic, mlp, cnn.*\('gru',\)"),
        ({"models": ()}, r"each once, got \(\); leave it out for all"),
    ],
    "natural_gradient": [
        ({"width": 0}, "natural_gradient: width must be at least 1, got 0; the default is 64"),
        ({"adam_steps": 0}, "adam_steps must be at least 1, got 0; the default is 50"),
    ],
    "noise_scale": [
        ({"rates": 0}, "noise_scale: rates must be at least 1, got 0; the default is 10"),
        ({"measured": (1,)}, r"noise_scale: measured must be at least 2, got \(1,\)"),
        ({"most": 5}, "noise_scale: most must be at least 20, got 5; the default is 12000"),
    ],
    "patch_features": [
        ({"patches": 10}, "patch_features: patches must be at least 1000, got 10; the default"),
        ({"few": 0}, "patch_features: few must be in 1 … 40, the crops there are of each texture"),
    ],
    "pixel_permutation": [
        ({"widths": (4, 0)}, r"each at least 1, got \(4, 0\)"),
        ({"epochs": 0}, "pixel_permutation: epochs must be at least 1, got 0; the default is 15"),
        ({"learning_rate": 0}, "learning_rate must be above 0, got 0; the default is 0.003"),
        ({"widths": ()}, "widths must name at least one"),
    ],
    "pooling": [
        ({"length": 10}, "pooling: length must be at least 100, got 10; shares of"),
        ({"filters_seeds": 0}, "pooling: filters_seeds must be at least 1, got 0; the default is"),
        ({"sizes_epochs": -1}, "pooling: sizes_epochs must not be negative, got -1; 0 is none"),
        ({"length": 3}, "length must be at least 100, got 3"),
    ],
    "private_training": [
        ({"sigmas": (0.0, 1.0)}, r"sigmas must be above 0, got \(0\.0, 1\.0\); the default is"),
        ({"clips": ()}, r"private_training: clips must be above 0, got \(\); the default is"),
        ({"data": ("digits",) * 2}, r"data must name one or two data sets, got \('digits', 'di"),
        ({"attack_seeds": 1}, "attack_seeds must not be 1, got 1; the default is 6"),
        ({"epsilon": 0.0}, "private_training: epsilon must be above 0, got 0.0"),
    ],
    "sharing_and_sparsity": [
        (
            {"images": 0},
            "images must be at least 1, got 0; the default is 64",
        ),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"digits": 0}, "digits must be at least 1, got 0"),
        ({"depths": (5,)}, r"depths .* in rising order, got \(5,\); e\.g\. 5 10 20"),
        ({"depths": (8, 4)}, r"depths .* got \(8, 4\)"),
    ],
    "traffic_sign": [
        ({"scenes": 0}, "traffic_sign: scenes must be at least 1, got 0; the default is 100"),
        ({"batch": 17000}, r"batch must be at most train_images \(16000\), got 17000; take"),
        ({"score": 1.5}, "score must be in 0 … 1, got 1.5; the default is 0.7"),
        ({"learning_rate": 0}, "learning_rate must be above 0, got 0; the default"),
    ],
    "transfer": [
        ({"steps": 0}, "transfer: steps must be at least 1, got 0; the default is 300"),
        ({"sizes": (15,)}, r"sizes must be rising multiples of 10 in 10 … 3000 .* got \(15,\)"),
        ({"sizes": (100, 10)}, r"rising .* got \(100, 10\)"),
        ({"sizes": ()}, r"rising .* got \(\); e\.g\."),
        ({"rates": (0.0,)}, r"rates must be above 0, at least one, got \(0\.0,\)"),
    ],
    "vanishing_gradients": [
        ({"layers": 1}, "vanishing_gradients: layers must be at least 2, got 1"),
        ({"train_steps": -1}, "train_steps must not be negative, got -1; 0 is none"),
        ({"seeds": 2}, r"train_seeds must be at most seeds \(2\), got 3; take less"),
    ],
    "variable_size": [
        ({"widths": (8, 16, 32)}, r"the last 64 wide .* got \(8, 16, 32\); the default is"),
        ({"mixed": (16, 28)}, r"mixed must name sides of at least 24 pixels, .* got \(16, 28\)"),
        ({"mixed": ()}, "mixed must name sides of at least 24"),
        ({"epochs": 0}, "variable_size: epochs must be at least 1, got 0; the default is 8"),
        ({"batch": 5000}, r"variable_size: batch must be in 1 … 4000, .* got 5000"),
        ({"learning_rate": 0}, "variable_size: learning_rate must be above 0, got 0"),
    ],
    "xor": [
        ({"steps": 150}, r"xor: steps must be a multiple of 100 .* got 150; e\.g"),
        ({"seeds": 0}, "xor: seeds must be at least 1, got 0; the default is 100"),
        ({"hidden": 0}, "xor: hidden must be at least 1, got 0; the default is 5"),
    ],
}


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [(name, *case) for name, cases in REFUSED.items() for case in cases],
)
def test_settings_that_cannot_be(name, settings, text):
    module = importlib.import_module(f"experiments.{name}")
    with pytest.raises(ValueError, match=text) as error:
        module.Settings(**settings)
    assert str(error.value).startswith(f"{name}: ")


def test_no_experiment_is_left_out():
    names = {entry.name for entry in find_experiments() if not entry.is_bench}
    assert names - set(REFUSED) == {"gradcheck_score"}  # its settings have tests of their own


@dataclass(frozen=True)
class Few(Checked):
    maybe: Count | None = None
    several: Counts = (1,)
    share: Annotated[float, within(0, 1)] = 0.5
    free: int = 0


@pytest.mark.parametrize(
    "good", [{"maybe": 1}, {"several": (1, 2)}, {"share": 0}, {"share": 1}, {"free": -1}]
)
def test_what_a_bound_allows(good):
    Few(**good)


@pytest.mark.parametrize(
    "bad", [{"maybe": 0}, {"several": (2, 0)}, {"several": ()}, {"share": 1.01}]
)
def test_a_bound_holds_in_a_union_and_for_each_of_several(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be .*; the default is"):
        Few(**bad)
