"""`jaxdl.gradcheck`: right rules pass, every mistake is found and named, refusals say why."""

import json
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from experiments.gradcheck_corpus.pairs import BY_NAME
from jaxdl import gradcheck
from jaxdl.gradcheck import GradcheckError, Report
from tests.gradcheck import twins
from tests.gradcheck.twins import drawn, others_than, ruled
from tests.long import sampled


@pytest.fixture(autouse=True)
def default_mode(x64_off):
    """Users have 32 bits, and NumPy's ways with dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


# Pairs of which every mistake is looked for, and some mistakes of larger ones.
WHOLE = ("dense", "broadcast product", "tanh", "relu", "square", "sine and cosine")
SOME = [
    ("gelu", "of the tanh form"), ("softmax", "diagonal"), ("maximum of rows", "every tie in full"),
    ("cumprod", "division by the input"), ("embedding", "set for add"),
    ("layer norm", "without its mean"), ("layer norm", "without x̂"), ("layer norm", "n − 1"),
    ("layer norm", "tail of a block dropped"), ("layer norm", "times the batch"),
    ("causal attention", "scale missing"), ("causal attention", "mask off by one"),
]  # fmt: skip
MISTAKES = [(name, mistake) for name in WHOLE for mistake in BY_NAME[name].mistakes] + SOME
RIGHT = list(dict.fromkeys(["relu, one at zero", *(name for name, _ in MISTAKES)]))
DAILY = ("dense", "relu", "sine and cosine", "maximum of rows", "embedding", "layer norm")
LATE = {  # that only the level 'standard' finds, or names
    ("dense", "rounded to bfloat16"), ("tanh", "stopped"), ("relu", "twice at zero"),
    ("relu", "open a little below zero"), ("relu", "gate of the cotangent"),
    ("square", "factor missing"), ("maximum of rows", "every tie in full"),
    ("cumprod", "division by the input"),
}  # fmt: skip


def checked(name, mistake=None, **settings) -> Report:
    f = twins.right(name) if mistake is None else twins.wrong(name, mistake)
    settings = {**BY_NAME[name].settings, **settings}
    return gradcheck.check(f, *twins.arguments(name), raises=False, **settings)


@cache
def report_of(name, mistake) -> Report:
    """What is said of a mistake, at the level that finds it; once for all tests that read it."""
    level = "standard" if (name, mistake) in LATE else "quick"
    return checked(name, mistake, level=level, skip={"shrink": "not its subject"})


# --- pairs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sampled(RIGHT, DAILY))
def test_right_rules_pass(name):
    report = checked(name)
    assert report.outcome == "pass", str(report)
    assert all(seen <= 1e-10 for seen in report.power.values())


@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_mistakes_are_found_and_named(name, mistake):
    """In the right argument alone, in the words that the corpus has for the mistake."""
    report, expected = report_of(name, mistake), BY_NAME[name].mistakes[mistake]
    text, failed = str(report), [f for f in report.findings if f.outcome == "fail"]
    assert report.outcome == "fail" and text.startswith("gradcheck FAIL")
    if report.oracle != "the contract alone":  # JAX refuses a rule as a whole
        assert all(f.leaf.startswith(expected.leaf) for f in failed), text
    assert expected.diagnosis is None or re.search(expected.diagnosis, text), text
    assert "replay: seed=0" in text or not {"dot", "stress"} & {f.name for f in failed}


@pytest.mark.parametrize("seed", sampled([1, 2, 3], {"1"}))
@pytest.mark.parametrize("name", ["relu", "layer norm", "maximum of rows"])
def test_other_seeds_do_not_raise_false_alarms(name, seed):
    assert checked(name, seed=seed).outcome == "pass"


# --- what is said -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mistake", "words"),
    [
        (
            "layer norm",
            "tail of a block dropped",
            "[16:19] of axis 0; 19 % 4 = 19 % 8 = 19 % 16 = 3",
        ),
        ("dense", "returns bfloat16", "float32[5, 4] as the argument, got bfloat16[5, 4]"),
        ("dense", "one entry, by a millionth", "15 of 16 entries agree"),
        ("sine and cosine", "second output dropped", "all 9 entries are wrong"),
        ("causal attention", "scale missing", "leaf    args[0]  float32[6, 4]"),
    ],
)
def test_the_message_names_the_place(name, mistake, words):
    assert words in str(report_of(name, mistake))


def test_a_failure_raises_and_the_report_is_the_message():
    off = twins.wrong("dense", "a thousandth too large")
    with pytest.raises(AssertionError, match=r"gradcheck FAIL(.|\n)*args\[1\](.|\n)*1\.001 times"):
        gradcheck.check(off, *twins.arguments("dense"), level="quick")


def test_the_report_as_json(tmp_path):
    report = report_of("dense", "zero")
    report.to_json(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read == report.to_dict()
    assert read["outcome"] == "fail" and read["rules"] == ["_dense"]
    (failure,) = [f for f in read["findings"] if f["name"] == "dot" and f["outcome"] == "fail"]
    assert failure["leaf"].startswith("args[2]") and failure["figures"]["got"] == 0


def test_samples_that_hide_errors_are_named():
    report = checked("dense", level="quick")
    assert report.outcome == "pass"
    assert any("equal length 4" in note for note in report.notes)
    report = gradcheck.check(twins.right("square"), jnp.ones(5), level="quick")
    assert any("all entries are equal" in note for note in report.notes)


# --- oracles ------------------------------------------------------------------------------------


def _sine():
    return ruled(jnp.sin, lambda kept, g: (g * jnp.cos(kept[0]),))


@pytest.mark.parametrize(
    "around",
    [
        lambda f: lambda x: jax.jit(f)(x),
        lambda f: lambda x: jax.checkpoint(f)(x),
        lambda f: lambda x: lax.scan(lambda c, a: (f(c) * a, c), x, jnp.arange(1.0, 4.0))[0],
        lambda f: lambda x: lax.cond(x.sum() > 100, lambda z: z, f, x),
        lambda f: lambda x: lax.fori_loop(0, 3, lambda i, z: f(z), x),
        lambda f: lambda x: lax.while_loop(lambda z: z.sum() > 1e9, f, x),
        lambda f: lambda x: jax.vmap(f)(x[:, None]),
    ],
    ids=["jit", "checkpoint", "scan", "cond", "fori_loop", "while_loop", "vmap"],
)
def test_rules_are_taken_out_wherever_they_are(around):
    f, x = around(_sine()), jnp.arange(3.0)
    assert gradcheck.rules(f, x)
    assert not gradcheck.rules(gradcheck.strip(f), x)
    np.testing.assert_array_equal(gradcheck.strip(f)(x), f(x))


def test_rules_of_jax_itself_stay():
    text = str(jax.make_jaxpr(gradcheck.strip(jax.nn.relu))(jnp.ones(3)))
    assert "custom_jvp_call" in text
    assert gradcheck.rules(jax.nn.relu, jnp.ones(3)) == []


def test_a_custom_jvp_is_checked_too():
    @jax.custom_jvp
    def cube(x):
        return x**3

    cube.defjvp(lambda primals, tangents: (cube(*primals), 3 * primals[0] ** 2 * tangents[0]))
    assert gradcheck.check(cube, drawn(5)).outcome == "pass"
    cube.defjvp(lambda primals, tangents: (cube(*primals), 2 * primals[0] ** 2 * tangents[0]))
    assert gradcheck.check(cube, drawn(5), raises=False).outcome == "fail"


@pytest.mark.parametrize(
    ("g", "slope"),
    [
        (np.sin, 1.0),
        (np.exp, 1.0),
        (lambda t: (1 + t) ** 7, 7.0),
        (lambda t: np.float32(np.sin(np.float32(1 + t))), np.cos(1.0)),
        (lambda t: 1e8 + np.sin(t), 1.0),
        (lambda t: np.sqrt(0.2 + t), 0.5 / np.sqrt(0.2)),
        (lambda t: np.sin(40 * t), 40.0),
        (lambda t: 3.0, 0.0),
    ],
)
def test_differences_know_their_error(g, slope):
    with np.errstate(invalid="ignore"):
        found = gradcheck.slope(lambda t: float(g(t)))
    assert abs(found.value - slope) <= 4 * found.error + 1e-15
    assert found.error < 1e-2 * max(abs(slope), 1e-9)


def test_smooth_functions_to_twelve_digits():
    found = gradcheck.slope(lambda t: float(np.sin(1 + t)))
    assert abs(found.value / np.cos(1.0) - 1) < 1e-12 and found.error < 1e-11


def test_finite_differences_judge_where_there_is_no_rule():
    report = gradcheck.check(lambda x: jnp.sin(x) * jnp.sum(x), drawn(4))
    assert report.oracle == "finite differences"
    assert any("JAX's own derivative" in note for note in report.notes)
    assert all(seen < 1e-8 for seen in report.power.values())
    assert checked("tanh", "no square", ref="fd").outcome == "fail"


def test_a_reference_of_the_callers():
    def sine(x):
        return jax.pure_callback(np.sin, x, x)

    f = jax.custom_vjp(sine)
    f.defvjp(lambda x: (f(x), x), lambda x, g: (g * jnp.cos(x),))
    assert gradcheck.check(f, drawn(4), ref=jnp.sin, level="quick").outcome == "pass"
    f.defvjp(lambda x: (f(x), x), lambda x, g: (g * jnp.cos(x) * 1.01,))
    assert gradcheck.check(f, drawn(4), ref=jnp.sin, level="quick", raises=False).outcome == "fail"


def test_an_intended_gradient():
    through = jax.custom_vjp(lambda x: jnp.round(x))
    through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))
    x = drawn(6)
    assert gradcheck.check(through, x, raises=False, level="quick").outcome == "fail"
    report = gradcheck.check(through, x, expect=lambda g, x: (g,), level="quick")
    assert report.outcome == "pass" and report.oracle == "the intended gradient"
    wrong = gradcheck.check(through, x, expect=lambda g, x: (2 * g,), level="quick", raises=False)
    assert wrong.outcome == "fail"


# --- arguments ----------------------------------------------------------------------------------


def test_all_kinds_of_arguments():
    @jax.custom_vjp
    def rule(w, x):
        return jnp.tanh(x) * w

    rule.defvjp(
        lambda w, x: (rule(w, x), (w, x)),
        lambda kept, g: (
            jnp.sum(g * jnp.tanh(kept[1])),
            g * kept[0] * (1 - jnp.tanh(kept[1]) ** 2),
        ),
    )

    def f(params, x, ids, key, nothing, mode, *, scale):
        assert mode == "add" and nothing is None
        noise = jax.random.normal(key, (3,))
        return {"y": rule(params["w"], x[ids]) * scale + noise, "count": ids.sum()}

    args = ({"w": 0.7}, np.arange(5.0), np.array([0, 2, 2]), jax.random.key(0), None, "add")
    before = args[1].copy()
    report = gradcheck.check(f, *args, kwargs={"scale": drawn(3)})
    assert set(report.power) == {"args[0]['w']", "args[1]", "scale"}
    np.testing.assert_array_equal(args[1], before)
    report = gradcheck.check(f, *args, kwargs={"scale": drawn(3)}, wrt=["args[0]*"], level="quick")
    assert set(report.power) == {"args[0]['w']"}


def test_further_samples():
    off = twins.wrong("layer norm", "tail of a block dropped")
    small, large = (drawn(2, 16), drawn(16)), twins.arguments("layer norm")
    assert gradcheck.check(off, *small, level="quick").outcome == "pass"
    report = gradcheck.check(off, *small, samples=[large], level="quick", raises=False)
    assert report.outcome == "fail"
    assert {f.sample for f in report.findings if f.outcome == "fail"} == {"samples[0]"}


def test_a_check_that_can_see_nothing_is_no_pass():
    """Relu of negative numbers: any gradient of zeros is right there."""
    report = gradcheck.check(twins.right("relu"), -jnp.ones((2, 3)), level="quick", raises=False)
    assert report.outcome == "inconclusive"
    assert "would not have been seen" in str(report)


def test_arguments_without_influence_pass():
    f = jax.custom_vjp(lambda x, unused: jnp.sin(x))
    f.defvjp(lambda x, u: (jnp.sin(x), (x, u)), lambda kept, g: (g * jnp.cos(kept[0]), 0 * kept[1]))
    assert gradcheck.check(f, drawn(3), drawn(2), level="quick").outcome == "pass"


def test_skipped_checks_are_in_the_report():
    report = checked("dense", "clipped", level="quick", skip={"scaling": "known", "dot": "later"})
    assert "skipped scaling: known" in str(report)
    assert {f.name for f in report.findings if f.outcome == "skipped"} == {"scaling", "dot"}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gradcheck.check(jnp.sin, jnp.arange(3)), "no argument can be differentiated"),
        (lambda: gradcheck.check(jnp.sin, jnp.zeros((0,))), "no argument can be differentiated"),
        (lambda: gradcheck.check(jnp.sin, 1j * jnp.ones(2)), r"args\[0\] is complex \(complex64\)"),
        (lambda: gradcheck.check(lambda x: x + 1j, jnp.ones(2)), "returns a complex array"),
        (lambda: gradcheck.check(jnp.argmax, jnp.ones(2)), "nothing that can be differentiated"),
        (lambda: checked("tanh", level="all"), "quick, standard, full, got 'all'"),
        (lambda: gradcheck.check(jnp.sin, jnp.ones(2), skip={"dots": ""}), "the check 'dots'"),
        (lambda: gradcheck.check(jnp.sin, jnp.ones(2), wrt=["b"]), "'b' matches no .* args.0."),
        (lambda: checked("tanh", ref="numeric"), "ref must be 'auto'"),
        (lambda: gradcheck.check(lambda x: x + np.random.rand(), jnp.ones(2)), "deterministic"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(GradcheckError, match=words):
        call()


# --- where checkers go wrong --------------------------------------------------------------------


def test_a_gradient_that_cancels_is_no_false_alarm():
    """A bias of the keys does not change attention: its gradient is the rounding of a sum."""

    def attention(q, k, b):
        return jax.nn.softmax(q @ (k + b).T, -1)

    def bwd(kept, g):
        q, k, b = kept
        p = attention(q, k, b)
        ds = p * (g - (g * p).sum(-1, keepdims=True))
        return ds @ (k + b), ds.T @ q, (ds.T @ q).sum(0)

    report = gradcheck.check(ruled(attention, bwd), drawn(4, 3), drawn(5, 3), drawn(3))
    assert report.outcome == "pass"
    off = ruled(attention, lambda kept, g: (*bwd(kept, g)[:2], bwd(kept, g)[2] + 1e-6))
    found = gradcheck.check(off, drawn(4, 3), drawn(5, 3), drawn(3), level="quick", raises=False)
    assert found.outcome == "fail"


@pytest.mark.parametrize(
    ("f", "bwd"),
    [
        (lambda x: jnp.maximum(x, 0), lambda kept, g: (jnp.where(kept[0] >= 0, g, 0),)),
        (lambda x: jnp.maximum(x, 0) ** 2, lambda kept, g: (2 * g * jnp.maximum(kept[0], 0),)),
    ],
)
def test_given_points_at_a_kink(f, bwd):
    x = jnp.array([0, 1, -1, 2, 0.5, -0.3])
    assert gradcheck.check(ruled(f, bwd), x).outcome == "pass"


def test_jax_own_relu_at_zero():
    assert gradcheck.check(jax.nn.relu, jnp.array([0, 1, -1, 2, 0.5])).outcome == "pass"


def test_kinks_do_not_hide_a_mistake_elsewhere():
    x = jnp.concatenate([jnp.zeros(3), jnp.array([1.5]), jnp.zeros(40), drawn(10)])
    factor = jnp.ones(54).at[3].set(2)
    wrong = ruled(
        lambda x: jnp.maximum(x, 0), lambda kept, g: (jnp.where(kept[0] >= 0, g * factor, 0),)
    )
    report = gradcheck.check(wrong, x, level="quick", raises=False)
    assert report.outcome == "fail" and "index (3,)" in str(report)


def test_a_derivative_that_is_infinite():
    root = ruled(jnp.sqrt, lambda kept, g: (g * 0.5 / jnp.sqrt(kept[0]),))
    report = gradcheck.check(root, jnp.array([0.0, 1.0, 4.0]), level="quick", raises=False)
    assert not [f for f in report.findings if f.outcome == "fail"], str(report)


def test_not_a_number_where_the_function_is_finite():
    def safe(x):
        return jnp.where(x > 0, jnp.sqrt(x), 0.0)

    report = gradcheck.check(safe, jnp.array([-1.0, 1.0]), level="quick", raises=False)
    assert report.outcome == "fail" and "NaN" in str(report)


def test_callbacks_without_vmap_at_the_default_level():
    def tanh(x):
        return jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    rule = ruled(tanh, lambda kept, g: (g * (1 - jnp.tanh(kept[0]) ** 2),))
    report = gradcheck.check(rule, drawn(4), ref=jnp.tanh)
    assert {f.name for f in report.findings if f.outcome == "skipped"} >= {"vmap"}


def test_dtypes_that_are_written_down():
    """A float32 carry has no float64: compared in float32, and told."""
    sine = _sine()

    def loop(x):
        return lax.scan(lambda c, a: (sine(c + a), c), jnp.zeros((), jnp.float32), x)[0]

    report = gradcheck.check(loop, drawn(5), level="quick", raises=False)
    assert report.outcome == "pass", str(report)
    assert any("has no float64" in note for note in report.notes)


def test_low_precision_on_the_way_is_named():
    def product(x, w):
        return (x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)).astype(x.dtype)

    def bwd(kept, g):
        return jax.vjp(product, *kept)[1](g)

    skip = others_than("dot")
    report = gradcheck.check(ruled(product, bwd), drawn(3, 4), drawn(4, 2), skip=skip, raises=False)
    assert report.outcome == "inconclusive"
    assert "precision of 0.008 on the way" in str(report)


def test_scaling_does_not_overflow_in_float16():
    w = jnp.array([1e4, 2e4, 3e4, -1e4], jnp.float16)
    f = ruled(lambda x: w * x, lambda kept, g: (w * g,))
    report = gradcheck.check(f, jnp.ones(4, jnp.float16) / 16, level="quick", raises=False)
    assert not [f for f in report.findings if f.outcome == "fail"], str(report)


def test_an_intended_gradient_beside_an_empty_output():
    through = ruled(
        lambda x: (x[:0], jnp.round(x), jnp.round(2 * x)), lambda kept, g: (g[1] + 3 * g[2],)
    )
    report = gradcheck.check(
        through, drawn(5), expect=lambda g, x: (g[1] + 3 * g[2],), level="quick"
    )
    assert report.outcome == "pass"
