"""Automatic mutants of our own rules: wrong, of the same forward, of every kind, the same twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as dl
from experiments.gradcheck_corpus import mutate, operators
from experiments.gradcheck_corpus.mutants import SUBJECTS, Mutant, Subject, sieved
from jaxdl import gradcheck
from tests.long import sampled

LOOKED_AT = ("dense", "relu", "gelu", "layer_norm", "dropout", "embedding", "repeat", "huber")


@pytest.fixture(autouse=True)
def default_mode(x64_off):
    """Users have 32 bits, and NumPy's ways with dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def some() -> list[Mutant]:
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        return [mutant for name in LOOKED_AT for mutant in sieved(name, 5).kept]


def gradients(f, args):
    """Of params and input, for one cotangent."""
    params, x, *key = args
    real = jnp.issubdtype(jax.tree.leaves(x)[0].dtype, jnp.floating)
    call = (lambda p, v: f(p, v, *key)) if real else (lambda p: f(p, x, *key))
    y, vjp = jax.vjp(call, *((params, x) if real else (params,)))
    dy = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), y)
    return y, jax.tree.leaves(vjp(dy))


def apart(one, two) -> float:
    """The largest difference, in units of the largest entry of its leaf."""
    return max(float(jnp.abs(a - b).max() / jnp.maximum(jnp.abs(b).max(), 1e-30))
               for a, b in zip(one, two, strict=True))  # fmt: skip


def test_the_right_rules_are_those_of_the_layers(some):
    for mutant in {mutant.layer: mutant for mutant in some}.values():
        layer = dl.as_function(SUBJECTS[mutant.layer].layer)
        y, right = gradients(mutant.right, mutant.args)
        expected, theirs = gradients(layer, mutant.args)
        np.testing.assert_array_equal(y, expected)
        assert apart(right, theirs) < 1e-5, mutant.layer


def test_mutants_compute_the_same_and_give_other_gradients(some):
    assert len({mutant.name for mutant in some}) == len(some) >= 30
    same = []
    for mutant in some:
        (y, got), (right, want) = (gradients(f, mutant.args) for f in (mutant.f, mutant.right))
        np.testing.assert_array_equal(y, right)
        assert [(g.shape, g.dtype) for g in got] == [(w.shape, w.dtype) for w in want]
        if apart(got, want) < 1e-5:
            same.append(mutant.name)
    # one cotangent at one point: of those that differ elsewhere there are few
    assert len(same) <= 2, same


def test_other_dtypes_and_transforms(some):
    """The change is found again where the rule is traced anew."""
    for mutant in [mutant for mutant in some if mutant.layer in ("gelu", "repeat")]:
        _, once = gradients(mutant.f, mutant.args)
        wide = jax.tree.map(lambda a: jnp.stack([a, a]), mutant.args)
        mapped = jax.jit(jax.vmap(lambda *args, m=mutant: gradients(m.f, args)[1]))(*wide)
        assert apart([m[1] for m in mapped], once) < 1e-4, mutant.name
        with jax.enable_x64(True):
            args = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), mutant.args)
            assert apart(gradients(mutant.f, args)[1], once) < 1e-2, mutant.name


def test_every_kind_of_change_can_be_made_somewhere():
    kinds = set()
    with jax.enable_x64(False):
        for name, subject in SUBJECTS.items():
            if name != "repeat":
                kinds |= {change.operator.kind for change in changes_of(subject)}
    assert kinds == set(operators.KINDS)


def changes_of(subject: Subject) -> list[mutate.Change]:
    """All changes of the backward of a layer, the forward before it."""
    x = jax.tree.map(lambda a: jnp.asarray(a, np.float32 if a.dtype == np.float64 else None),
                     subject.x(np.random.default_rng(0)))  # fmt: skip
    key = jax.random.key(0)

    def both(params, x, key):
        y, residuals = subject.layer.fwd(params, x, key if subject.keyed else None)
        return subject.layer.bwd(params, residuals, jax.tree.map(jnp.ones_like, y))

    return mutate.changes(jax.make_jaxpr(both)(subject.layer.init(key, x), x, key))


def test_the_same_mutants_every_time(some):
    again = [m.name for m in sieved("gelu", 5).kept]
    assert again == [m.name for m in some if m.layer == "gelu"]
    assert again != [m.name for m in sieved("gelu", 5, seed=1).kept]


# --- the sieve ----------------------------------------------------------------------------------


def subject_of(bwd) -> Subject:
    """relu with that backward, of its input and the cotangent."""
    layer = dl.leaf("relu", lambda key, x: {}, lambda params, x: (jnp.maximum(x, 0), x),
                    lambda params, x, dy: ({}, bwd(x, dy)))  # fmt: skip
    return Subject(layer, lambda rng: rng.standard_normal((4, 6)))


def test_an_equivalent_change_is_no_mutant():
    found = sieved("times one", subject=subject_of(lambda x, dy: jnp.where(x > 0, dy, 0) * 1.0))
    assert "times one: the second factor dropped, mul 0" in found.equivalents
    assert "times one: times 1.001, mul 0" in [m.name for m in found.kept]


def test_another_subgradient_is_no_mutant():
    found = sieved("relu", subject=subject_of(lambda x, dy: jnp.where(x > 0, dy, 0)))
    assert found.at_kinks == ["relu: another strictness, gt 0"]
    assert "relu: another direction, gt 0" in {m.name for m in found.kept} | set(found.twins)


def test_no_number_at_zero_is_a_mutant():
    """Numbers that differ at zero may be a subgradient; NaN is none."""
    subject = subject_of(lambda x, dy: dy * jnp.maximum(x, 0) / jnp.where(x == 0, 1, x))
    found = [sieved("guarded", seed=seed, subject=subject) for seed in range(4)]
    unguarded = "guarded: always the first case, select_n 0"
    (mutant, *_) = [m for f in found for m in f.kept if m.name == unguarded]
    assert apart(*(gradients(f, mutant.args)[1] for f in (mutant.f, mutant.right))) < 1e-6
    assert np.all(np.isnan(gradients(mutant.f, ({}, jnp.zeros((2, 3))))[1][0]))


def test_an_equation_that_is_not_there():
    change = mutate.changes(jax.make_jaxpr(lambda x: 2.0 * x)(1.0))[0]
    with pytest.raises(LookupError, match="no mul 0, there are 0"):
        mutate.changed(lambda x: x + 1.0, change)(1.0)


# --- the checker --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sampled(["softmax", "embedding"], ["embedding"]))
def test_the_checker_finds_them(name):
    for mutant in sieved(name, 3).kept:
        assert gradcheck.check(mutant.right, *mutant.args, level="quick").outcome == "pass"
        skip = {"shrink": "not its subject"}
        report = gradcheck.check(mutant.f, *mutant.args, skip=skip, raises=False)
        assert report.outcome == "fail", str(report)
