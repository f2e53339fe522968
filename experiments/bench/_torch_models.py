"""The models of `_linen` in PyTorch with the same weights, and how Opacus clips their gradients.

PyTorch and Opacus are looked up by name: neither is needed for anything else, and a type checker
need not find them.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

torch: Any = None
"""PyTorch, once `load` has been called."""


def load(threads: int) -> str:
    """Import PyTorch, and have it use as many threads; the text says which version."""
    global torch
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    # Opacus hooks also the first layer, whose input needs no gradient, and asks for an autocast.
    for message in ("Full backward hook is firing", "In CPU autocast"):
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
    return f"PyTorch {torch.__version__} with {torch.get_num_threads()} threads"


class Model(NamedTuple):
    """A module and the losses of its examples."""

    module: Any
    losses: Callable[[Any], Any]
    """(the module, which may be wrapped) -> the loss of every example"""


class Found(NamedTuple):
    """What a side returns, as arrays without a gradient."""

    norms: Any = None
    """Of the gradient of every example, (B,)."""
    gradients: Sequence[Any] = ()
    """The sum, clipped or not, in the order of the parameters."""


# --- the models ---------------------------------------------------------------------------------


def model(name: str, params: Mapping[str, Any], batch: tuple[Any, ...], layers: str) -> Model:
    """The counterpart of a program of `bench.programs`.

    Args:
      name: "mlp", "cnn", "lstm" or "transformer".
      params: those of the Flax model, taken over.
      batch: that of the program.
      layers: "torch", or "opacus" for what Opacus takes in place of PyTorch's own.
    """
    arrays = _as_arrays(params["params"])
    if name == "transformer":
        module = _transformer(arrays, layers)
        ids = torch.from_numpy(np.array(batch[0], np.int64))
        inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    else:
        x = np.array(batch[0])
        inputs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy() if name == "cnn" else x)
        targets = torch.from_numpy(np.array(batch[1], np.int64))
        module = (
            {"mlp": _mlp, "cnn": _cnn}[name](arrays) if name != "lstm" else _lstm(arrays, layers)
        )

    def losses(module: Any) -> Any:
        logits = module(inputs)
        classes_second = logits.movedim(-1, 1)
        every = torch.nn.functional.cross_entropy(classes_second, targets, reduction="none")
        return every.reshape(len(every), -1).mean(1)

    return Model(module.train(), losses)


def _as_arrays(tree: Any) -> Any:
    return (
        {k: _as_arrays(v) for k, v in tree.items()} if isinstance(tree, Mapping) else np.array(tree)
    )


def _set(parameter: Any, array: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)).reshape(parameter.shape))


def _linear(kernel: np.ndarray, bias: np.ndarray) -> Any:
    made = torch.nn.Linear(*kernel.shape)
    _fill(made, kernel, bias)
    return made


def _fill(linear: Any, kernel: np.ndarray, bias: np.ndarray) -> None:
    _set(linear.weight, kernel.T)
    _set(linear.bias, bias)


def _layer_norm(of: Mapping[str, np.ndarray]) -> Any:
    made = torch.nn.LayerNorm(len(of["scale"]), eps=1e-6)
    _set(made.weight, of["scale"])
    _set(made.bias, of["bias"])
    return made


def _embedding(table: np.ndarray) -> Any:
    made = torch.nn.Embedding(*table.shape)
    _set(made.weight, table)
    return made


def _mlp(p: Any) -> Any:
    parts = []
    for i in range(3):
        parts += [_linear(**p[f"Dense_{i}"]), _layer_norm(p[f"LayerNorm_{i}"]), torch.nn.ReLU()]
    return torch.nn.Sequential(*parts, _linear(**p["Dense_3"]))


def _cnn(p: Any) -> Any:
    parts = []
    for i in range(2):
        kernel = p[f"Conv_{i}"]["kernel"].transpose(3, 2, 0, 1)
        conv = torch.nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
        _set(conv.weight, kernel)
        _set(conv.bias, p[f"Conv_{i}"]["bias"])
        parts += [conv, torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    hidden, channels = p["Dense_1"], len(p["Conv_1"]["bias"])
    # the pixels of a channel are side by side here, the channels of a pixel in Flax
    pixels = round((len(hidden["kernel"]) // channels) ** 0.5)
    kernel = hidden["kernel"].reshape(pixels, pixels, channels, -1).transpose(2, 0, 1, 3)
    first = _linear(kernel.reshape(hidden["kernel"].shape), hidden["bias"])
    last = _linear(**p["Dense_0"])
    return torch.nn.Sequential(*parts, torch.nn.Flatten(), first, torch.nn.ReLU(), last)


def _lstm(p: Any, layers: str) -> Any:
    cell, width = p["LSTMCell_0"], len(p["LSTMCell_0"]["hi"]["bias"])
    inputs, hidden, bias = (
        np.concatenate([cell[f"{of}{gate}"][what] for gate in "ifgo"], axis=-1)
        for of, what in (("i", "kernel"), ("h", "kernel"), ("h", "bias"))
    )
    of_opacus = layers == "opacus"
    kind = importlib.import_module("opacus.layers").DPLSTM if of_opacus else torch.nn.LSTM

    class Lstm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = kind(len(inputs), width, batch_first=True)
            self.out = _linear(**p["Dense_0"])

        def forward(self, x):
            return self.out(self.lstm(x)[0][:, -1])

    made = Lstm()
    if layers == "opacus":
        (found,) = (m for m in made.modules() if hasattr(m, "ih"))
        parts = found.ih.weight, found.ih.bias, found.hh.weight, found.hh.bias
    else:
        rnn = made.lstm
        parts = rnn.weight_ih_l0, rnn.bias_ih_l0, rnn.weight_hh_l0, rnn.bias_hh_l0
    arrays = inputs.T, np.zeros_like(bias), hidden.T, bias
    for parameter, array in zip(parts, arrays, strict=True):
        _set(parameter, array)
    parts[1].requires_grad_(False)  # Flax has one bias, PyTorch two
    return made


def _transformer(p: Any, layers: str) -> Any:
    nn, width = torch.nn, p["Embed_0"]["embedding"].shape[1]

    class Attention(nn.Module):
        """Of linear layers, which Opacus knows.

        It refuses `nn.MultiheadAttention`, and the `DPMultiheadAttention` that it has instead
        refuses a causal mask where the batch comes first (1.6.0: it compares with the batch size).
        """

        def __init__(self, heads, parts):
            super().__init__()
            self.heads = heads
            self.layers = nn.ModuleDict({f"to_{k}": _linear(*of) for k, of in parts.items()})

        def forward(self, x, *_, **__):
            q, k, v = (
                self.layers[f"to_{name}"](x).unflatten(2, (self.heads, -1)).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return (self.layers["to_out"](y.transpose(1, 2).flatten(2)),)

    class Block(nn.Module):
        def __init__(self, p):
            super().__init__()
            of = p["MultiHeadDotProductAttention_0"]
            heads = len(of["query"]["bias"])
            parts = {
                name: (of[name]["kernel"].reshape(width, width), of[name]["bias"].reshape(-1))
                for name in ("query", "key", "value", "out")
            }
            if layers == "opacus":
                self.attention = Attention(heads, parts)
            else:
                self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
                three = [parts[name] for name in ("query", "key", "value")]
                _set(self.attention.in_proj_weight, np.concatenate([k.T for k, _ in three]))
                _set(self.attention.in_proj_bias, np.concatenate([b for _, b in three]))
                _fill(self.attention.out_proj, *parts["out"])
            self.norms = nn.ModuleList(_layer_norm(p[f"LayerNorm_{i}"]) for i in range(2))
            self.hidden, self.out = _linear(**p["Dense_0"]), _linear(**p["Dense_1"])
            self.gelu = nn.GELU(approximate="tanh")

        def forward(self, x, mask):
            y = self.norms[0](x)
            x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
            return x + self.out(self.gelu(self.hidden(self.norms[1](x))))

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = _embedding(p["Embed_0"]["embedding"])
            self.place = _embedding(p["place"])  # Opacus takes parameters of layers alone
            names = (name for name in p if name.startswith("Block_"))
            ordered = sorted(names, key=lambda name: int(name.split("_")[1]))
            self.blocks = nn.ModuleList(Block(p[name]) for name in ordered)
            self.norm, self.out = _layer_norm(p["LayerNorm_0"]), _linear(**p["Dense_0"])

        def forward(self, ids):
            mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
            places = torch.arange(ids.shape[1]).repeat(len(ids), 1)
            x = self.embed(ids) + self.place(places)
            for block in self.blocks:
                x = block(x, mask)
            return self.out(self.norm(x))

    return Transformer()


# --- the sides ----------------------------------------------------------------------------------


def plain(model: Model) -> Callable[[], Found]:
    """PyTorch's own backward pass of the sum of the losses."""
    parameters = _trained(model.module)

    def call() -> Found:
        losses = model.losses(model.module)
        return Found(gradients=list(torch.autograd.grad(losses.sum(), parameters)))

    return call


def per_example(model: Model, way: str, bound: float, clip: bool) -> Callable[[], Found]:
    """Opacus with a gradient for each example: `way` is "hooks", "functorch" or "ew"."""
    opacus = importlib.import_module("opacus.grad_sample")
    optimizers = importlib.import_module("opacus.optimizers")
    wrapped = opacus.utils.prepare_module(
        model.module, grad_sample_mode=way, batch_first=True, loss_reduction="sum"
    )
    parameters = _trained(model.module)
    optimizer = optimizers.DPOptimizer(
        torch.optim.SGD(parameters, lr=0.0), noise_multiplier=0.0, max_grad_norm=bound,
        expected_batch_size=None, loss_reduction="sum",
    )  # fmt: skip

    def call() -> Found:
        optimizer.zero_grad()
        model.losses(wrapped).sum().backward()
        if clip:
            optimizer.clip_and_accumulate()
            return Found(gradients=[p.summed_grad for p in parameters])
        norms = [p.grad_sample.flatten(1).norm(2, dim=1) for p in parameters]
        return Found(norms=torch.stack(norms).norm(2, dim=0))

    return call


def ghost(model: Model, bound: float, clip: bool) -> Callable[[], Found]:
    """Opacus's ghost clipping: norms without gradients, then a second backward pass."""
    opacus = importlib.import_module("opacus.grad_sample")
    tensors = importlib.import_module("opacus.utils.fast_gradient_clipping_utils")
    wrapped = opacus.GradSampleModuleFastGradientClipping(
        model.module, batch_first=True, loss_reduction="sum", max_grad_norm=bound,
        use_ghost_clipping=True,
    )  # fmt: skip
    parameters = _trained(model.module)
    optimizer = torch.optim.SGD(parameters, lr=0.0)

    def call() -> Found:
        optimizer.zero_grad()
        losses = model.losses(wrapped)
        if not clip:
            losses.sum().backward()
            return Found(norms=wrapped.get_norm_sample())
        both = tensors.DPTensorFastGradientClipping(wrapped, optimizer, losses, "sum")
        both.backward()
        return Found(wrapped.per_sample_gradient_norms, [p.grad for p in parameters])

    return call


def _trained(module: Any) -> list[Any]:
    return [p for p in module.parameters() if p.requires_grad]


def why_not(make: Callable[[], Callable[[], Found]]) -> Callable[[], Found] | str:
    """The side once it has run, or why it cannot."""
    try:
        call = make()
        call()
    except Exception as error:  # whatever another library may raise
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:150]}"
    return call
