"""What rules are held against: where they are found, and the parts of `check` one at a time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh, PartitionSpec

from jaxdl import gradcheck
from jaxdl.gradcheck import GradcheckError
from tests.gradcheck import twins
from tests.gradcheck.twins import drawn, others_than, ruled


@pytest.fixture(autouse=True)
def default_mode(x64_off):
    with jax.numpy_dtype_promotion("standard"):
        yield


# --- where rules are found ----------------------------------------------------------------------


def _sine(factor) -> Any:
    @jax.custom_gradient
    def sine(x):
        return jnp.sin(x), lambda g: (factor * g * jnp.cos(x),)

    return sine


def test_rules_of_custom_gradient_are_the_users():
    report = gradcheck.check(_sine(1.0), drawn(5), level="quick")
    assert report.oracle == "the primal without its rules" and len(report.rules) == 1
    assert gradcheck.check(_sine(1.01), drawn(5), level="quick", raises=False).outcome == "fail"


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_rules_inside_shard_map(factor):
    mesh = Mesh(np.array(jax.devices()[:1]), ("rows",), axis_types=(AxisType.Auto,))
    rows, everywhere = PartitionSpec("rows"), PartitionSpec()

    def f(x):
        return jax.shard_map(
            lambda a: lax.psum(_sine(factor)(a).sum(0), "rows"),
            mesh=mesh, in_specs=rows, out_specs=everywhere,
        )(x)  # fmt: skip

    report = gradcheck.check(f, drawn(4, 3), level="quick", raises=False)
    assert report.oracle == "the primal without its rules"
    assert report.outcome == ("pass" if factor == 1 else "fail")
    assert not gradcheck.rules(gradcheck.strip(f), drawn(4, 3))


def test_what_jax_refuses_is_a_failure_of_the_contract():
    off = twins.wrong("dense", "sum over the batch missing")
    report = gradcheck.check(off, *twins.arguments("dense"), raises=False)
    (finding,) = report.findings
    assert (finding.name, finding.outcome) == ("contract", "fail")
    assert "JAX refuses what the rule returns" in finding.text and "float32[4]" in finding.text
    assert finding.leaf == "args[2]"
    moved = gradcheck.check(lambda b, w, x: off(x, w, b), *reversed(twins.arguments("dense")),
                            raises=False)  # fmt: skip
    assert [f.leaf for f in moved.findings] == [""]  # JAX's message is about other arguments


# --- without a rule -----------------------------------------------------------------------------


def test_entries_of_all_sizes():
    x = jnp.asarray(10.0 ** np.random.default_rng(0).uniform(-6, 6, 9), jnp.float32)
    assert gradcheck.check(lambda x: jnp.log(jnp.abs(x)), x, level="quick").power["args[0]"] < 1e-9


def test_an_argument_that_does_not_matter():
    assert gradcheck.check(lambda x, y: jnp.sin(x) + 0 * y.sum(), drawn(5), drawn(3)).outcome == (
        "pass"
    )


@pytest.mark.parametrize(("at_zero", "outcome"), [(0.0, "pass"), (1.5, "fail")])
def test_a_kink_at_which_the_reference_is_no_number(at_zero, outcome):
    @jax.custom_jvp
    def norm(x):
        return jnp.sqrt(jnp.sum(x * x, -1))

    @norm.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        size = norm(x)
        slope = (x * t).sum(-1) / jnp.where(size == 0, 1, size)
        return size, jnp.where(size == 0, at_zero * t.sum(-1), slope)

    x = drawn(4, 3).at[2].set(0)
    assert gradcheck.check(norm, x, level="quick", raises=False).outcome == outcome


@pytest.mark.parametrize(("at_zero", "outcome"), [(1.0, "pass"), (0.25, "fail")])
def test_a_point_at_which_autodiff_of_the_primal_is_wrong(at_zero, outcome):
    """Two branches meet smoothly at 0, and JAX gives `minimum` half a slope there."""
    elu = ruled(
        lambda x: jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0))),
        lambda kept, g: (g * jnp.where(kept[0] == 0, at_zero, jnp.exp(jnp.minimum(kept[0], 0))),),
    )
    x = drawn(8).at[3].set(0)
    report = gradcheck.check(elu, x, level="quick", raises=False)
    assert report.outcome == outcome and ("on all sides it is 1" in str(report)) == (at_zero != 1)


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_a_reference_that_is_no_number_anywhere(factor):
    """The distance of a point to itself is 0 wherever it is, and autodiff has 0/0 there."""

    def distances(x):
        d = x[:, None] - x[None]
        return jnp.sqrt(jnp.sum(d * d, -1))

    def bwd(kept, g):
        (x,) = kept
        d, y = x[:, None] - x[None], distances(x)
        slope = factor * (g / jnp.where(y == 0, 1, y))[..., None] * d
        return (slope.sum(1) - slope.sum(0),)

    why = "no entry has a reference"
    skip = others_than("dot", "stress", "shapes") | {"power": why, "second order": why}
    report = gradcheck.check(ruled(distances, bwd), drawn(4, 3), skip=skip, raises=False)
    assert report.outcome == ("pass" if factor == 1 else "fail"), str(report)


def test_an_open_vote_is_no_failure_of_precision():
    """Bisection: autodiff of the primal gives 0, and only differences know."""

    def root(a):
        low, high = jnp.full_like(a, -4), jnp.full_like(a, 4)
        for _ in range(60):
            middle = (low + high) / 2
            above = middle**3 + middle > a
            low, high = jnp.where(above, low, middle), jnp.where(above, middle, high)
        return low

    f = ruled(root, lambda kept, g: (g / (3 * root(kept[0]) ** 2 + 1),))
    skip = others_than("dot", "extremes", "precision", "second order")
    report = gradcheck.check(f, drawn(4), skip=skip, raises=False)
    assert report.outcome == "inconclusive" and "ref='fd'" in str(report)
    assert gradcheck.check(f, drawn(4), ref="fd", skip=skip).outcome == "pass"


def test_a_failure_beside_stop_gradient_gives_a_hint():
    f = ruled(
        lambda x: x + lax.stop_gradient(jnp.round(x) - x), lambda kept, g: (1.5 * g,)
    )  # fmt: skip
    report = gradcheck.check(f, drawn(5), raises=False)
    assert "f has a stop_gradient" in str(report)


def test_an_ill_conditioned_function_may_differ_from_its_forward_rule():
    matrix = jnp.asarray(1 / (np.add.outer(np.arange(6), np.arange(6)) + 1.0), jnp.float32)
    f = jax.custom_vjp(lambda y: jnp.linalg.solve(matrix, y))
    f.defvjp(
        lambda y: (jax.scipy.linalg.solve(matrix, y, assume_a="sym"), None),
        lambda _, g: (jnp.linalg.solve(matrix.T, g),),
    )
    report = gradcheck.check(f, drawn(6), level="quick", raises=False)
    assert {x.outcome for x in report.findings if x.name == "forward"} == {"pass"}


def test_on_the_border_of_the_domain_nobody_knows():
    """x·√x: at 0 autodiff has 0·∞, and below there is nothing."""
    f = ruled(lambda x: x * jnp.sqrt(x), lambda kept, g: (1.5 * g * jnp.sqrt(kept[0]),))
    assert gradcheck.check(f, jnp.abs(drawn(6))).outcome == "pass"


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_differences_beside_kinks(factor):
    """Every maximum is tied, with one of the other argument: along no direction is f smooth."""
    f = ruled(
        lambda x, y: jnp.maximum(x, y).sum(),
        lambda kept, g: (factor * g * (kept[0] >= kept[1]), factor * g * (kept[0] < kept[1])),
    )
    report = gradcheck.check(f, drawn(6), drawn(6), ref="fd", level="quick", raises=False)
    assert report.outcome == ("pass" if factor == 1 else "fail")
    assert "6 of 6 entries lie on kinks of f; they were checked close by" in str(report)


def test_a_derivative_by_the_cotangent():
    """Right once and wrong twice: the cotangent is held constant."""
    sine = ruled(jnp.sin, lambda kept, g: (lax.stop_gradient(g) * jnp.cos(kept[0]),))
    report = gradcheck.check(sine, drawn(5), raises=False)
    (finding,) = [f for f in report.findings if f.outcome == "fail"]
    assert (finding.name, finding.leaf) == ("second order", "the cotangent of output 0")


def test_what_f_holds_is_held_twice():
    def f(x, t):
        return x * lax.stop_gradient(jnp.sin(t))

    held = ruled(f, lambda kept, g: (g * jnp.sin(kept[1]), jnp.zeros_like(g)))
    skip = {"power": "t has no gradient"}
    report = gradcheck.check(held, drawn(5), drawn(5), skip=skip)
    assert "skipped second order: args[1]: stop_gradient in f holds it back" in str(report)


def test_a_rule_that_is_linear_for_positive_factors_only():
    gate = ruled(lambda x: 2 * x, lambda kept, g: (2 * jnp.maximum(g, 0),))
    report = gradcheck.check(gate, drawn(5), level="quick", raises=False)
    assert "scaling" in {f.name for f in report.findings if f.outcome == "fail"}


# --- sizes --------------------------------------------------------------------------------------


def test_both_parities_of_every_axis():
    """Wrong for even lengths alone, and given an odd one."""
    turned = ruled(
        lambda x: x * (-1.0) ** jnp.arange(x.size),
        lambda kept, g: ((g[::-1] * (-1.0) ** jnp.arange(g.size))[::-1],),
    )
    skip = others_than("dot", "stress", "shapes")
    report = gradcheck.check(turned, drawn(7), skip=skip, raises=False)
    assert {f.name for f in report.findings if f.outcome == "fail"} == {"shapes"}


def test_axes_of_one_length_become_1_together():
    """Rows belong together in pairs; f does not say so, and one row against four broadcasts."""

    def f(a, b):
        return jnp.trace(jax.nn.log_softmax(a @ b.T, 1))

    def bwd(kept, g):
        a, b = kept
        s = a @ b.T
        ds = g * (jnp.eye(s.shape[0], dtype=s.dtype) - jax.nn.softmax(s, 1))
        return ds @ b, ds.T @ a

    skip = others_than("dot", "shapes")
    args = drawn(4, 3), 2 * drawn(4, 3)
    assert gradcheck.check(ruled(f, bwd), *args, skip=skip).outcome == "pass"


def test_an_array_and_indices_into_it_have_one_length():
    """JAX clamps an index beyond; the rule knows rows of its own length alone."""
    f = ruled(
        lambda x, order: x[jnp.argsort(order)],
        lambda kept, g: (jnp.zeros_like(kept[0]).at[jnp.argsort(kept[1])].add(g), None),
    )
    skip = others_than("dot", "stress", "shapes")
    report = gradcheck.check(f, drawn(6), jnp.asarray([4, 0, 7, 1, 9, 3]), skip=skip)
    assert report.outcome == "pass"


def test_a_rule_that_refuses_sizes_is_told():
    pairs = ruled(lambda x: 2 * x, lambda kept, g: ((2 * g.reshape(-1, 2)).reshape(-1),))
    assert "the rule raises an error, and f does not" in str(gradcheck.check(pairs, drawn(8)))


def test_what_is_sorted_stays_sorted():
    """Between knots; out of order they bracket nothing."""

    def bracket(x, knots):
        i = jnp.clip(jnp.searchsorted(knots, x, side="right") - 1, 0, knots.size - 2)
        return i, (x - knots[i]) / (knots[i + 1] - knots[i])

    def f(x, knots):
        i, t = bracket(x, knots)
        return i + jnp.clip(t, 0, 1)

    def bwd(kept, g):
        x, knots = kept
        i, t = bracket(x, knots)
        slope = g * ((t > 0) & (t < 1)) / (knots[i + 1] - knots[i])
        zeros = jnp.zeros_like(knots)
        return slope, zeros.at[i].add(slope * (t - 1)).at[i + 1].add(-slope * t)

    skip = others_than("dot", "stress", "shapes")  # no extremes: knots that coincide
    report = gradcheck.check(ruled(f, bwd), drawn(5), jnp.sort(drawn(6)), skip=skip)
    assert report.outcome == "pass"


# --- dtypes -------------------------------------------------------------------------------------


def test_a_python_float_stays_what_it_was():
    """It takes the dtype of what it meets; at other points too."""
    f = ruled(lambda x, s: x * s, lambda kept, g: (
        g * kept[1], (g * kept[0]).sum().astype(jnp.float32)))  # fmt: skip
    assert gradcheck.check(f, drawn(4).astype(jnp.bfloat16), 0.7).outcome == "pass"


def test_what_is_not_differentiated_is_given_as_it_is():
    f = ruled(lambda x, c: jnp.sin(x) * c, lambda kept, g: (g * jnp.cos(kept[0]) * kept[1], None))
    x = drawn(40).astype(jnp.bfloat16)
    report = gradcheck.check(lambda x, c: f(x, c), x, x[::-1], wrt=["args[0]"])
    assert report.outcome == "pass"


@pytest.mark.parametrize("level", ["standard", "full"])
def test_half_precision_in_and_single_out(level):
    f = ruled(
        lambda x: jnp.tanh(x.astype(jnp.float32)),
        lambda kept, g: ((g * (1 - jnp.tanh(kept[0].astype(g.dtype)) ** 2)).astype(kept[0].dtype),),
    )
    assert gradcheck.check(f, drawn(5).astype(jnp.bfloat16), level=level).outcome == "pass"


def test_a_rule_with_a_dtype_written_down_is_compared_in_it():
    def bwd(kept, g):
        start = jnp.zeros((), jnp.float32)
        return (lax.scan(lambda c, v: (c + v, c + v), start, g, reverse=True)[1],)

    report = gradcheck.check(ruled(lambda x: jnp.cumsum(x), bwd), drawn(6))
    assert report.outcome == "pass" and "compared in the given dtypes" in str(report)


def test_a_python_float_that_is_held_is_a_number():
    f = ruled(lambda x: jnp.sin(x), lambda kept, g: (g * jnp.cos(kept[0]),))

    def scaled(x, a):
        return f(x) * a if a > 0 else x

    assert gradcheck.check(scaled, drawn(5), 0.7, wrt=["args[0]"], level="quick").outcome == "pass"
    with pytest.raises(
        GradcheckError, match=r"plain number .* \(args\[1\]\): name the others in wrt"
    ):
        gradcheck.check(scaled, drawn(5), 0.7)


def test_a_single_number_keeps_its_sign():
    """A width: where it is negative, clip and the rule mean different things."""

    def huber(x, d):
        return jnp.where(jnp.abs(x) <= d, 0.5 * x * x, d * (jnp.abs(x) - 0.5 * d))

    def bwd(kept, g):
        x, d = kept
        beyond = jnp.abs(x) > d
        return g * jnp.clip(x, -d, d), jnp.where(beyond, g * (jnp.abs(x) - d), 0).sum()

    f, skip = ruled(huber, bwd), others_than("dot", "stress")
    for seed in range(3):
        assert gradcheck.check(f, drawn(8), jnp.float32(1), seed=seed, skip=skip).outcome


ORDER = np.array([3, 0, 4, 1, 2])


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_half_precision_without_float64_is_compared_in_float32(factor):
    """JAX takes the dtype of an index of NumPy from the mode in which it met it first."""
    f = ruled(lambda x: x[:, ORDER], lambda kept, g: (factor * g[:, np.argsort(ORDER)],))
    report = gradcheck.check(f, drawn(3, 5).astype(jnp.bfloat16), raises=False)
    assert report.outcome == ("pass" if factor == 1 else "fail")
    assert "compared in float32" in str(report) and report.power["args[0]"] < 1e-4


def test_precision_where_the_truth_is_no_number():
    """One row of zeros takes nothing from what is seen in the others."""

    def norm(x):
        return jnp.sqrt(jnp.sum(x * x, -1))

    def with_digits(digits):
        def bwd(kept, g):
            (x,) = kept
            size = norm(x)[:, None]
            dx = jnp.where(size == 0, 0, g[:, None] * x / jnp.where(size == 0, 1, size))
            return (dx.astype(digits).astype(x.dtype),)

        return ruled(norm, bwd)

    x = drawn(8, 3).at[2].set(0)
    skip = others_than("dot", "precision")
    assert gradcheck.check(with_digits(jnp.float32), x, skip=skip).outcome == "pass"
    report = gradcheck.check(with_digits(jnp.bfloat16), x, skip=skip, raises=False)
    assert "it has the digits of bfloat16 only" in str(report)


# --- the parts ----------------------------------------------------------------------------------


def _standardised(x, scale):
    return jax.nn.standardize(x, epsilon=1e-5) * scale


def test_dot_test():
    right, wrong = twins.right("layer norm"), twins.wrong("layer norm", "n − 1")
    args = twins.arguments("layer norm")
    found = gradcheck.dot_test(right, *args)
    assert found.agrees and found.tolerance < 1e-9
    assert found.by_rule == pytest.approx(found.by_reference, rel=1e-9)
    assert not gradcheck.dot_test(wrong, *args).agrees
    assert gradcheck.dot_test(right, *args, ref=_standardised).agrees
    assert not gradcheck.dot_test(right, *args, ref=lambda x, s: _standardised(x, 2 * s)).agrees
    assert gradcheck.dot_test(right, *args, seed=1) != found


def test_dot_test_refuses_what_has_no_float64():
    def f(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    with pytest.raises(GradcheckError, match="dot_test needs float64, which pure_callback"):
        gradcheck.dot_test(f, drawn(3))


def test_taylor_test():
    right, wrong = twins.right("layer norm"), twins.wrong("layer norm", "n − 1")
    args = twins.arguments("layer norm")
    assert gradcheck.taylor_test(right, *args).order == pytest.approx(2, abs=0.1)
    found = gradcheck.taylor_test(wrong, *args)
    assert found.order == pytest.approx(1, abs=0.1)
    assert len(found.steps) == len(found.remainders) and np.all(np.diff(found.steps) < 0)
    assert np.isnan(gradcheck.taylor_test(lambda x: 3 * x, drawn(4)).order)


def test_compare():
    right, wrong = twins.right("softmax"), twins.wrong("softmax", "diagonal")
    args = twins.arguments("softmax")
    assert gradcheck.compare(right, lambda x: jax.nn.softmax(x, -1), *args).outcome == "pass"
    report = gradcheck.compare(right, lambda x: 1.001 * jax.nn.softmax(x, -1), *args)
    assert report.outcome == "fail"
    assert [f.name for f in report.findings if f.outcome == "fail"] == ["value"]
    report = gradcheck.compare(wrong, right, *args)
    assert {f.name for f in report.findings if f.outcome == "fail"} == {"dot"}
