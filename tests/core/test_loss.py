"""Losses: values against optax and SciPy, values and gradients against PyTorch, masks, edges."""

# pyright: reportArgumentType=false
# Wrong arguments are given on purpose.

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

import jaxdl as jd
from jaxdl.core.loss import Loss

assert_close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)
RNG = np.random.default_rng(0)
Y = 2 * RNG.normal(size=(6, 4))
REAL = RNG.normal(size=(6, 4))
SIGN = np.where(RNG.random((6, 4)) < 0.5, -1.0, 1.0)
SHARE = RNG.random((6, 4))
LABELS = RNG.integers(0, 4, 6)
SOFT = SHARE / SHARE.sum(-1, keepdims=True)
WEIGHTS = RNG.random((6, 4))


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def value_and_dy(loss, y, target, where=None, dvalue=1.0):
    value, residuals = loss.fwd(y, target, where)
    return value, loss.bwd(residuals, dvalue)


def optax_smoothed(y, labels):
    return optax.softmax_cross_entropy(y, optax.smooth_labels(jax.nn.one_hot(labels, 4), 0.1))


def scipy_kl(y, target):
    mean = y.mean(0)
    return special.rel_entr(0.05, mean) + special.rel_entr(0.95, 1 - mean)


# (loss, target, value of each element by others, each element in PyTorch given (F, y, target))
ELEMENTWISE = {
    "half_squared_error": (
        lambda **_: jd.half_squared_error(),
        REAL,
        optax.l2_loss,
        lambda F, y, t: 0.5 * F.mse_loss(y, t, reduction="none"),
    ),
    "mean_squared_error": (
        lambda **_: jd.mean_squared_error(),
        REAL,
        optax.squared_error,
        lambda F, y, t: F.mse_loss(y, t, reduction="none"),
    ),
    "huber": (
        lambda **kw: jd.huber(1.5, **kw),
        REAL,
        lambda y, t: optax.huber_loss(y, t, delta=1.5),
        lambda F, y, t: F.huber_loss(y, t, delta=1.5, reduction="none"),
    ),
    "hinge": (
        lambda **kw: jd.hinge(**kw),
        SIGN,
        optax.hinge_loss,
        lambda F, y, t: F.relu(1 - t * y),
    ),
    "binary_cross_entropy": (
        lambda **kw: jd.binary_cross_entropy(**kw),
        SHARE,
        optax.sigmoid_binary_cross_entropy,
        lambda F, y, t: F.binary_cross_entropy_with_logits(y, t, reduction="none"),
    ),
    "softmax_labels": (
        lambda **kw: jd.softmax_cross_entropy(**kw),
        LABELS,
        optax.softmax_cross_entropy_with_integer_labels,
        lambda F, y, t: F.cross_entropy(y, t, reduction="none"),
    ),
    "softmax_soft": (
        lambda **kw: jd.softmax_cross_entropy(**kw),
        SOFT,
        optax.softmax_cross_entropy,
        lambda F, y, t: F.cross_entropy(y, t, reduction="none"),
    ),
    "softmax_soft_unnormalised": (
        lambda **kw: jd.softmax_cross_entropy(**kw),
        SHARE,
        optax.softmax_cross_entropy,
        lambda F, y, t: F.cross_entropy(y, t, reduction="none"),
    ),
    "softmax_smoothed": (
        lambda **kw: jd.softmax_cross_entropy(label_smoothing=0.1, **kw),
        LABELS,
        optax_smoothed,
        lambda F, y, t: F.cross_entropy(y, t, reduction="none", label_smoothing=0.1),
    ),
}
each = pytest.mark.parametrize(
    ("make", "target", "by_others", "in_torch"), ELEMENTWISE.values(), ids=ELEMENTWISE
)
reductions = pytest.mark.parametrize("reduction", ["mean", "sum"])


def reduced(loss, reduction, elements, weights=1.0):
    """What the loss should make of its elements; the squared errors reduce in one way only."""
    reduction = {"half_squared_error": "sum", "mean_squared_error": "mean"}.get(loss, reduction)
    total = (weights * elements).sum()
    return total / (weights + 0 * elements).sum() if reduction == "mean" else total


@each
@reductions
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_value_is_that_of_optax(make, target, by_others, in_torch, reduction, weighted):
    loss = make(reduction=reduction)
    with jax.numpy_dtype_promotion("standard"):
        elements = np.asarray(by_others(Y, target))
    where = WEIGHTS[:, : elements.shape[1]] if elements.ndim == 2 else WEIGHTS[:, 0]
    expected = reduced(loss.name, reduction, elements, where if weighted else 1.0)
    value = loss(Y, target, where if weighted else None)
    assert value.shape == () and value.dtype == jnp.float64
    assert_close(value, expected)


@each
@reductions
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_value_and_gradient_are_those_of_torch(
    torch, make, target, by_others, in_torch, reduction, weighted
):
    loss, y = make(reduction=reduction), torch.tensor(Y, requires_grad=True)
    elements = in_torch(torch.nn.functional, y, torch.tensor(target))
    where = WEIGHTS if elements.ndim == 2 else WEIGHTS[:, 0]
    weights = torch.tensor(where) if weighted else 1.0
    expected = reduced(loss.name, reduction, elements, weights)
    (3 * expected).backward()
    value, dy = value_and_dy(loss, Y, target, where if weighted else None, dvalue=3.0)
    assert_close(value, expected.item())
    assert_close(dy, y.grad.numpy())


def test_kl_sparsity_is_that_of_scipy_and_torch(torch):
    activations, loss = special.expit(Y), jd.kl_sparsity(0.05)
    value, dy = value_and_dy(loss, activations, None)
    assert_close(value, scipy_kl(activations, None).sum())

    y = torch.tensor(activations, requires_grad=True)
    both = torch.stack([y.mean(0), 1 - y.mean(0)])
    rho = torch.tensor([[0.05], [0.95]], dtype=torch.float64).expand(2, 4)
    torch.nn.functional.kl_div(both.log(), rho, reduction="sum").backward()
    assert_close(dy, y.grad.numpy())


def test_kl_sparsity_without_torch_on_positions_and_weights():
    activations, where = special.expit(Y).reshape(2, 3, 4), np.array([[1, 0, 2], [3, 1, 0]])
    loss = jd.kl_sparsity(0.2)
    mean = np.average(activations.reshape(6, 4), axis=0, weights=where.ravel())
    expected = special.rel_entr(0.2, mean) + special.rel_entr(0.8, 1 - mean)
    assert_close(loss(activations, where=where), expected.sum())


def test_ignored_labels_as_torch_ignores_them(torch):
    labels = np.where(np.arange(6) % 3 == 1, -100, LABELS)
    y = torch.tensor(Y, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        y, torch.tensor(labels), ignore_index=-100, label_smoothing=0.1
    )
    expected.backward()
    loss = jd.softmax_cross_entropy(label_smoothing=0.1)
    for run in (value_and_dy, jax.jit(value_and_dy, static_argnums=0)):
        value, dy = run(loss, Y, labels, labels != -100)
        assert_close(value, expected.item())
        assert_close(dy, y.grad.numpy())


# --- weights --------------------------------------------------------------------------------------

TARGETS = {name: (make, target) for name, (make, target, _, _) in ELEMENTWISE.items()}
TARGETS["kl_sparsity"] = (lambda **_: jd.kl_sparsity(), None)
all_losses = pytest.mark.parametrize(("make", "target"), TARGETS.values(), ids=TARGETS)


def outputs(loss):
    return special.expit(Y) if loss.name == "kl_sparsity" else Y


def is_elementwise(loss):
    return loss.name not in ("softmax_cross_entropy", "kl_sparsity")


@all_losses
@reductions
def test_masking_is_computing_on_the_rest_whatever_was_masked(make, target, reduction):
    loss, keep = make(reduction=reduction), np.array([True, False, True, True, False, True])
    y = outputs(loss)
    where = keep[:, None] if is_elementwise(loss) else keep
    expected, expected_dy = value_and_dy(loss, y[keep], None if target is None else target[keep])

    spoilt, spoilt_target = y.copy(), target
    spoilt[~keep] = [np.nan, np.inf, -np.inf, 1e300]
    if target is not None and target.dtype == np.float64:
        spoilt_target = target.copy()
        spoilt_target[~keep] = np.nan
    value, dy = value_and_dy(loss, spoilt, spoilt_target, where)
    autodiff = jax.grad(lambda y: loss(y, spoilt_target, where))(jnp.asarray(spoilt))
    assert_close(value, expected)
    for got in (dy, autodiff):
        assert_close(got[keep], expected_dy)
        np.testing.assert_array_equal(got[~keep], 0)


def all_but(*names):
    return [pytest.param(*TARGETS[name], id=name) for name in TARGETS if name not in names]


@pytest.mark.parametrize(("make", "target"), all_but("kl_sparsity"))
@pytest.mark.parametrize("dtype", [bool, np.int32, np.float64])
def test_with_no_weight_at_all_value_and_gradient_are_0(make, target, dtype):
    loss = make()
    where = np.zeros((6, 1) if is_elementwise(loss) else 6, dtype)
    value, dy = value_and_dy(loss, Y, target, where)
    assert value == 0 and not np.any(dy)


@pytest.mark.parametrize(("make", "target"), all_but("half_squared_error"))
def test_a_mean_does_not_change_when_all_weights_double(make, target):
    loss = make()
    where = WEIGHTS if is_elementwise(loss) else WEIGHTS[:, 0]
    once, dy = value_and_dy(loss, outputs(loss), target, where)
    twice, dy_twice = value_and_dy(loss, outputs(loss), target, 2 * where)
    assert_close(twice, once)
    assert_close(dy_twice, dy)


# --- edges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [-1, 4, 100])
def test_an_impossible_label_is_an_error_outside_jit_and_nan_inside(label):
    loss, labels = jd.softmax_cross_entropy(), jnp.array([0, label, 1, 2, 3, 0])
    message = (
        rf"softmax_cross_entropy: labels must be in 0 ... 3, got values from {min(label, 0)} to "
        rf"{max(label, 3)}; check how they were made"
    )
    with pytest.raises(ValueError, match=message):
        loss(Y, labels)
    value, dy = jax.jit(value_and_dy, static_argnums=0)(loss, Y, labels)
    assert np.isnan(value)
    assert np.all(np.isnan(dy[1])) and np.all(np.isfinite(np.delete(dy, 1, axis=0)))
    autodiff = jax.jit(jax.grad(loss))(jnp.asarray(Y), labels)
    assert np.all(np.isnan(autodiff[1]))


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_binary_cross_entropy_of_extreme_logits(t):
    y = jnp.array([-1e4, -100, 100, 1e4], jnp.float32)
    target = jnp.full(4, t, jnp.float32)
    value, dy = value_and_dy(jd.binary_cross_entropy(reduction="sum"), y, target)
    wide = np.asarray(y, np.float64)
    expected = (-t * special.log_expit(wide) - (1 - t) * special.log_expit(-wide)).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(dy, special.expit(wide) - np.float32(t), rtol=1e-6, atol=1e-30)


def test_softmax_cross_entropy_of_extreme_logits():
    y = jnp.array([[1e4, -1e4, 0], [-1e4, -1e4, 1e4], [1e4, 1e4, 1e4]], jnp.float32)
    labels = jnp.array([1, 2, 0])
    loss = jd.softmax_cross_entropy(reduction="sum")
    value, dy = value_and_dy(loss, y, labels)
    np.testing.assert_allclose(value, 2e4 + np.log(3), rtol=1e-6)
    expected = np.array([[1, -1, 0], [0, 0, 0], [-2 / 3, 1 / 3, 1 / 3]])
    for got in (dy, jax.grad(loss)(y, labels)):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(loss(y[2:], labels[2:]), np.log(3), rtol=1e-6)


@pytest.mark.parametrize("target", [np.array([2, 0]), np.array([[0, 0, 1.0], [1, 0, 0]])])
def test_softmax_cross_entropy_of_logits_masked_with_minus_infinity(target):
    y, loss = jnp.array([[1.0, -np.inf, 2], [0.5, 1, -np.inf]]), jd.softmax_cross_entropy()
    p = special.softmax(y, axis=-1)
    value, dy = value_and_dy(loss, y, target)
    assert_close(value, -np.log([p[0, 2], p[1, 0]]).mean())
    for got in (dy, jax.grad(loss)(y, target)):
        assert_close(got, (p - np.array([[0, 0, 1], [1, 0, 0]])) / 2)


def test_at_their_kinks_hinge_has_gradient_0_and_huber_is_smooth():
    dy = value_and_dy(jd.hinge(reduction="sum"), jnp.array([1.0, -1]), jnp.array([1.0, -1]))[1]
    np.testing.assert_array_equal(dy, 0)
    value, dy = value_and_dy(jd.huber(2.0, reduction="sum"), jnp.array([2.0, -2]), jnp.zeros(2))
    assert value == 4 and dy.tolist() == [2, -2]


def test_values_are_wide_and_gradients_like_y():
    y = jnp.asarray(Y).astype(jnp.bfloat16)
    for make, target in TARGETS.values():
        loss = make()
        out = jax.nn.sigmoid(y) if loss.name == "kl_sparsity" else y
        value, dy = value_and_dy(loss, out, target)
        assert value.dtype == jnp.float32 and dy.dtype == jnp.bfloat16 and dy.shape == y.shape


def test_targets_of_integers_and_booleans():
    bits = SIGN > 0
    loss = jd.binary_cross_entropy()
    for target in (bits, bits.astype(np.int32), bits.tolist()):
        np.testing.assert_array_equal(loss(Y, target), loss(Y, bits.astype(float)))
    one_hot = np.eye(4)[LABELS]
    loss = jd.softmax_cross_entropy()
    assert_close(loss(Y, one_hot > 0), loss(Y, LABELS))
    assert_close(loss(Y, LABELS.astype(np.uint8)), loss(Y, LABELS))


def test_numpy_in_float64_where_only_32_bits_exist(x64_off):
    for make, target in TARGETS.values():
        loss = make()
        value, dy = value_and_dy(loss, outputs(loss), target, None)
        assert value.dtype == dy.dtype == jnp.float32


@all_losses
def test_errors_of_every_loss(make, target):
    loss = make()
    name, y = loss.name, jnp.asarray(outputs(loss))
    assert isinstance(loss, Loss)
    with pytest.raises(TypeError, match=f"{name}: y must be floating point, got int32; cast it"):
        loss(jnp.zeros((6, 4), jnp.int32), target)
    with pytest.raises(TypeError, match=f"{name}: y must be an array, got a list; use jnp.asarray"):
        loss(Y.tolist(), target)
    empty = rf"{name}: y must hold at least one element, got shape \(0, 4\); skip an empty batch"
    with pytest.raises(ValueError, match=empty):
        loss(y[:0], None if target is None else target[:0])
    shape = (6, 4) if is_elementwise(loss) else (6,)
    for bad in ((5,), (6, 4, 1)):
        with pytest.raises(ValueError) as caught:
            loss(y, target, np.ones(bad))
        assert str(caught.value) == (
            f"{name}: where must have the axes of the loss's elements {shape}, some perhaps of "
            f"size 1, got shape {bad}; e.g. where[:, None] for one weight an example"
        )
    if target is not None:
        none = f"{name}: target must be an array, got None; give what y should be"
        with pytest.raises(TypeError, match=none):
            loss(y)
    if is_elementwise(loss):
        with pytest.raises(ValueError) as caught:
            loss(y, np.zeros((6, 1)))
        assert str(caught.value) == (
            f"{name}: target must have the shape of y, (6, 4), got (6, 1); reshape one (a missing "
            "or extra axis of size 1 would broadcast to a wrong loss)"
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jd.huber(0.0), "huber: delta must be above 0, got 0.0; the usual one is 1.0"),
        (lambda: jd.huber(reduction="avg"), "huber: reduction must be 'mean' or 'sum', got 'avg'"),
        (
            lambda: jd.hinge(reduction="x"),
            "hinge: reduction must be 'mean' or 'sum', got 'x'; pick",
        ),
        (
            lambda: jd.binary_cross_entropy(reduction="none"),
            "binary_cross_entropy: reduction must be 'mean' or 'sum', got 'none'; pick one",
        ),
        (
            lambda: jd.softmax_cross_entropy(reduction="none"),
            "softmax_cross_entropy: reduction must be 'mean' or 'sum', got 'none'; pick one",
        ),
        (
            lambda: jd.softmax_cross_entropy(label_smoothing=1.0),
            r"softmax_cross_entropy: label_smoothing must be in \[0, 1\), got 1.0; a usual one",
        ),
        (
            lambda: jd.softmax_cross_entropy()(jnp.float32(1), jnp.int32(0)),
            r"softmax_cross_entropy: y must have a last axis of classes, got a scalar; use y\[None",
        ),
        (
            lambda: jd.softmax_cross_entropy()(Y, LABELS[:, None]),
            r"softmax_cross_entropy: integer labels must have the shape of y without its last axis,"
            r" \(6,\), got \(6, 1\); soft labels must be floating",
        ),
        (
            lambda: jd.softmax_cross_entropy()(Y, LABELS.astype(float)),
            r"softmax_cross_entropy: soft labels must have the shape of y, \(6, 4\), got float64 "
            r"labels of shape \(6,\); labels that count classes must be integers",
        ),
        (lambda: jd.kl_sparsity(0.0), r"kl_sparsity: rho must be in \(0, 1\), got 0.0; a usual"),
        (lambda: jd.kl_sparsity(1), r"kl_sparsity: rho must be in \(0, 1\), got 1; a usual one is"),
        (
            lambda: jd.kl_sparsity()(Y, Y),
            "kl_sparsity: target must be None, got one; the target is rho",
        ),
        (
            lambda: jd.kl_sparsity()(jnp.float32(0.5)),
            r"kl_sparsity: y must have a last axis of units, got a scalar; use y\[None\]",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_weights_of_examples_are_never_taken_for_weights_of_columns():
    """(N,) would broadcast over the last axis of (N, N), silently."""
    square = jnp.asarray(Y[:4])
    with pytest.raises(ValueError, match=r"where must have the axes .* got shape \(4,\)"):
        jd.mean_squared_error()(square, square, jnp.ones(4))
    jd.mean_squared_error()(square, square, jnp.ones((4, 1)))


@pytest.mark.parametrize(("y", "t"), [(20.0, 1.0), (-20.0, 0.0), (60.0, 1.0), (-60.0, 0.0)])
def test_binary_cross_entropy_keeps_the_digits_of_a_good_prediction(y, t):
    value, dy = value_and_dy(jd.binary_cross_entropy(), np.float32([y]), np.float32([t]))
    assert_close(value, np.log1p(np.exp(-20.0 if abs(y) == 20 else -60.0)), rtol=1e-6, atol=0)
    assert_close(dy, [np.sign(-y) * special.expit(-abs(y))], rtol=1e-6, atol=0)


def test_a_loss_can_be_jitted_by_itself():
    loss = jd.mean_squared_error()
    assert_close(jax.jit(loss)(Y, 2 * Y), loss(Y, 2 * Y))
