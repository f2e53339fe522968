"""Integers and booleans beside the arguments: what they promise, and other values that keep it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

from jaxdl import gradcheck
from jaxdl.gradcheck.problem.integers import held_points, promises, resized_integers
from jaxdl.gradcheck.problem.problem import state
from jaxdl.gradcheck.problem.sizes import dimensions, resized
from tests.gradcheck.twins import drawn, ruled


@pytest.fixture(autouse=True)
def default_mode(x64_off):
    with jax.numpy_dtype_promotion("standard"):
        yield


def rng():
    return np.random.default_rng(0)


def ints(*values):
    return jnp.asarray(values, jnp.int32)


def gathered(x, i):
    return x[i]


def overwritten(x, i):
    return x.at[i].set(0.0)


def beside(x, i):
    return x


# --- promises -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "values", "promise"),
    [
        (gathered, [3, 0, 2, 1], "permutation"),
        (gathered, [[1, 0, 2], [0, 2, 1]], "permutation"),
        (gathered, [[0, 1, 0], [1, 0, 0]], "one in a row"),
        (beside, [[False, True], [False, True]], "one in a row"),
        (beside, [True, False], "none"),
        (gathered, [0, 2, 2, 9], "pointers"),
        (gathered, [5, 0, 2], "none"),
        (overwritten, [5, 0, 2], "distinct"),
        (gathered, [[5, 0], [3, 1]], "distinct"),
        (gathered, [4, 3, 2], "sizes"),
        (gathered, [0, 0, 1, 3, 3], "sorted"),
        (gathered, [0, 0, 0, 0, 1, 1, 2, 2, 3], "sorted"),  # their sum is 9 by chance
        (gathered, 11 * [0] + [9], "sorted"),
        (gathered, [2, 2, 0], "none"),
    ],
)
def test_what_integers_promise(f, values, promise):
    problem = state(f, (drawn(9), jnp.asarray(values)), None, None)
    assert promises(problem) == {1: promise}


def test_other_values_keep_the_promise():
    def moved(f, values):
        problem = state(f, (drawn(9), jnp.asarray(values)), None, None)
        return {name: np.asarray(p.leaves[1]) for name, p in held_points(problem, rng())}

    for found in moved(gathered, [3, 0, 2, 1]).values():
        assert sorted(found.tolist()) == [0, 1, 2, 3]
    for found in moved(overwritten, [5, 0, 2]).values():
        assert sorted(found.tolist()) == [0, 2, 5]
    for found in moved(gathered, [4, 3, 2]).values():
        assert found.sum() == 9 and 0 in found
    for found in moved(gathered, [2, 2, 3, 5]).values():
        assert np.all(np.diff(found) >= 0) and (found[0], found[-1]) == (2, 5)
    for found in moved(gathered, [[0, 1, 0], [1, 0, 0]]).values():
        assert found.sum(axis=1).tolist() == [1, 1]
    for found in moved(gathered, [0, 1, 1, 3, 5]).values():
        assert np.all(np.diff(found) >= 0) and (found[0], found[-1]) == (0, 5)
    found = moved(gathered, [7, 3, 5, 4, 6, 3])
    names = tuple(f"{n} among the integers" for n in ("duplicates", "edges", "the smallest"))
    assert tuple(found) == names
    assert len(set(found[names[0]].tolist())) < 5 and set(found[names[1]].tolist()) == {0, 7}


def test_booleans_all_true_and_all_false():
    problem = state(jnp.where, (jnp.asarray([True, False]), drawn(2), 0.0), None, None)
    assert [np.asarray(p.leaves[0]).tolist() for _, p in held_points(problem, rng())] == [
        [True, True], [False, False]
    ]  # fmt: skip


def test_labels_in_bytes_are_drawn_too():
    problem = state(gathered, (drawn(9), jnp.asarray([7, 3, 5, 4, 3], jnp.uint8)), None, None)
    found = dict(held_points(problem, rng()))["edges among the integers"].leaves[1]
    assert found.dtype == jnp.uint8 and set(np.asarray(found).tolist()) == {0, 7}


def test_nothing_is_drawn_for_keys_and_single_numbers():
    args = (drawn(4), jnp.int32(3), 2, jax.random.key(0), jnp.asarray([1, 2], jnp.uint32))
    problem = state(lambda x, *_: x, args, None, None)
    assert not list(held_points(problem, rng())) and not promises(problem)


def test_integers_of_another_size():
    values = np.zeros(6, int)
    for _ in range(5):
        assert sorted(resized_integers(values, "permutation", 6, {}, 0, 0, rng())) == [*range(6)]
        found = resized_integers(values[:3], "distinct", 4, {}, 0, 0, rng())
        assert len(set(found.tolist())) == 3 and found.max() < 4
    assert resized_integers(values, "sizes", 9, {9: 17}, 9, 4, rng()).sum() == 17
    assert resized_integers(np.array([3, 1, 2]), "sorted", 3, {}, 6, 3, rng()).tolist() == [0, 1, 2]
    found = resized_integers(values, "pointers", 9, {9: 17}, 20, 9, rng())
    assert (found[0], found[-1]) == (0, 17) and np.all(np.diff(found) >= 0)
    found = resized_integers(np.zeros((4, 5), bool), "one in a row", 9, {}, 0, 0, rng())
    assert found.dtype == bool and found.sum(axis=1).tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="no 6 distinct indices below 5"):
        resized_integers(values, "distinct", 5, {}, 0, 0, rng())
    with pytest.raises(ValueError, match="no 6 distinct indices below 5"):
        resized_integers(values, "permutation", 5, {}, 0, 0, rng())
    with pytest.raises(ValueError, match="several axes have the length 9"):
        resized_integers(values, "sizes", 9, {}, 9, 4, rng())
    with pytest.raises(ValueError, match="no 6 sizes below 2"):
        resized_integers(values, "sizes", 2, {9: 17}, 9, 4, rng())


def test_sizes_that_may_be_indices_stay_within_bounds():
    """Their sum is the length of an axis by chance."""
    problem = state(gathered, (drawn(5), ints(2, 3, 0)), None, None)
    assert promises(problem) == {1: "sizes"}
    for seed in range(5):
        for _, moved in held_points(problem, np.random.default_rng(seed)):
            assert moved.leaves[1].max() < 5


@pytest.mark.parametrize("index", [3, np.int32(3), jnp.int32(3)])
def test_an_axis_is_not_cut_below_an_index(index):
    problem = state(lambda x, i: x[i], (drawn(5), index), None, None)
    (group,) = dimensions(problem)
    assert resized(problem, [group], [4], rng()).leaves[0].shape == (4,)
    with pytest.raises(ValueError, match=r"args\[1\] may be an index"):
        resized(problem, [group], [1], rng())


# --- mistakes that only other integers show -----------------------------------------------------


def rows(write):
    return ruled(gathered, lambda kept, g: (write(jnp.zeros_like(kept[0]).at[kept[1]], g), None))


def groups(mean):
    """Means of consecutive rows; an empty group has the mean 0."""

    def f(x, sizes):
        ends = jnp.cumsum(sizes)
        i = jnp.arange(x.shape[0])
        inside = (i >= (ends - sizes)[:, None]) & (i < ends[:, None])
        return jnp.where(sizes > 0, (inside * x).sum(1) / jnp.maximum(sizes, 1), 0)

    def bwd(kept, g):
        x, sizes = kept
        return jnp.repeat(g * mean(sizes), sizes, total_repeat_length=x.shape[0]), None

    return ruled(f, bwd)


def masked(total):
    def f(x, mask):
        return jnp.where(mask, x, 0).sum() / jnp.maximum(mask.sum(), 1)

    return ruled(f, lambda kept, g: (kept[1] * (g / total(kept[1].sum())), None))


MISTAKES = {
    "set for add": (
        rows(lambda at, g: at.add(g)), rows(lambda at, g: at.set(g)),
        (drawn(9), ints(5, 0, 2, 8)), "duplicates among the integers",
    ),
    "row 0 taken for padding": (
        rows(lambda at, g: at.add(g)), rows(lambda at, g: at.add(g).at[0].set(0)),
        (drawn(9), ints(5, 3, 2, 8)), "edges among the integers",
    ),
    "nothing in the mask unguarded": (
        masked(lambda n: jnp.maximum(n, 1)), masked(lambda n: n),
        (drawn(6), jnp.asarray([True, False, False, True, True, False])), "all booleans False",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    right, wrong, args, sample = MISTAKES[name]
    skip = dict.fromkeys(["shapes", "extremes", "shrink"], "not asked here")
    assert gradcheck.check(right, *args, skip=skip).outcome == "pass"
    report = gradcheck.check(wrong, *args, skip=skip, raises=False)
    samples = {f.sample for f in report.findings if f.outcome == "fail"}
    assert sample in samples and "given" not in samples, str(report)


def test_an_empty_group():
    """Its 1/0 meets no row: a rule without a guard is right, and one that spills is not."""
    args = (drawn(9), ints(4, 3, 2))
    skip = dict.fromkeys(["shrink"], "not asked here")
    right = groups(lambda n: 1 / jnp.maximum(n, 1).astype(jnp.float32))
    assert gradcheck.check(right, *args, skip=skip).outcome == "pass"
    spilled = groups(lambda n: jnp.where((n == 0).any(), 0.5, 1.0) / jnp.maximum(n, 1))
    report = gradcheck.check(spilled, *args, skip=skip, raises=False)
    samples = {f.sample for f in report.findings if f.outcome == "fail" and f.name == "stress"}
    assert "duplicates among the integers" in samples, str(report)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.float32])
def test_labels_with_a_single_1(dtype):
    """Softmax less the label is right for a label that adds up to 1."""
    f = ruled(
        lambda x, y: -jnp.sum(jnp.where(y == 1, jax.nn.log_softmax(x), 0)),
        lambda kept, g: (g * (jax.nn.softmax(kept[0]) - kept[1]), None),
    )
    labels = jnp.asarray(np.eye(4)[[1, 3, 1]], dtype)
    assert gradcheck.check(f, drawn(3, 4), labels, wrt=["args[0]"]).outcome == "pass"


def test_pointers_that_end_where_the_rows_do():
    def f(x, ends):
        total = jnp.concatenate([jnp.zeros(1, x.dtype), jnp.cumsum(x)])
        return total[ends[1:]] - total[ends[:-1]]

    def bwd(kept, g):
        x, ends = kept
        return jnp.repeat(g, jnp.diff(ends), total_repeat_length=x.size), None

    assert gradcheck.check(ruled(f, bwd), drawn(7), ints(0, 2, 3, 7)).outcome == "pass"


def test_a_failure_for_other_integers_says_so():
    wrong = MISTAKES["row 0 taken for padding"][1]
    skip = dict.fromkeys(["shapes", "shrink"], "not asked here")
    report = gradcheck.check(wrong, drawn(9), ints(5, 3, 2, 8), skip=skip, raises=False)
    assert "let it return NaN where that does not hold" in str(report)


def test_a_rule_may_rely_on_what_is_promised():
    """The inverse of a permutation, the rows of distinct indices: right only for those."""

    def permuted(x, order):
        return x[order]

    right = ruled(permuted, lambda kept, g: (g[jnp.argsort(kept[1])], None))
    assert gradcheck.check(right, drawn(5), ints(3, 0, 4, 1, 2)).outcome == "pass"
    written = ruled(
        lambda x, new, i: x.at[i].set(new),
        lambda kept, g: (g.at[kept[2]].set(0), g[kept[2]], None),
    )
    assert gradcheck.check(written, drawn(8), drawn(3), ints(5, 0, 2)).outcome == "pass"


def test_integers_that_f_refuses_by_an_error_are_left_out():
    """It sees their values only where they are no tracers: where its rule is taken out."""

    def f(x, ends):
        if not isinstance(ends, Tracer) and sorted(set(ends.tolist())) != ends.tolist():
            raise ValueError("ends must ascend")
        return x * (jnp.arange(x.size) < ends[-1])

    def bwd(kept, g):
        return g * (jnp.arange(g.size) < kept[-1]), None

    ruled = jax.custom_vjp(f)
    ruled.defvjp(lambda x, ends: (f(x, ends), ends), bwd)
    report = gradcheck.check(ruled, drawn(6), jnp.asarray([1, 3, 5]), raises=False)
    assert report.outcome == "pass", report
