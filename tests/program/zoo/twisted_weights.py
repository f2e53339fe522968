"""Parameters that are something else before they meet data: moved, cast, shaped, constrained."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.program.record import N, Program, family, half_square, integers, normal, weights

TWISTED_WEIGHTS: list[Program] = []
program = family("weights", TWISTED_WEIGHTS)


def square(dtype, made_from, bias=False):
    """One dense layer of 6 features over 4 positions whose weight is made from the parameters."""

    def loss(params, x):
        y = x @ made_from(params)
        return half_square(jnp.tanh(y + params["b"] if bias else y) - 0.3)

    return loss, weights(dtype, w=(6, 6), **({"b": 6} if bias else {})), (normal(dtype, N, 4, 6),)


@program()
def transposed(dtype):
    return square(dtype, lambda p: p["w"].T, bias=True)


@program()
def reversed_rows(dtype):
    return square(dtype, lambda p: p["w"][::-1, ::2])


@program()
def reshaped(dtype):
    return square(dtype, lambda p: p["w"].reshape(3, 12)[:2].reshape(6, 4))


@program()
def concatenated(dtype):
    return square(
        dtype, lambda p: jnp.concatenate([p["w"][:4], 2 * p["b"][None], p["w"][5:]]), True
    )


@program()
def concatenated_with_itself(dtype):
    return square(dtype, lambda p: jnp.concatenate([p["w"], p["w"].T], axis=1))


@program()
def concatenated_with_a_constant(dtype):
    return square(dtype, lambda p: jnp.concatenate([p["w"][:, :3], jnp.ones((6, 2), dtype)], 1))


@program()
def overlapping_slices(dtype):
    return square(dtype, lambda p: p["w"][:, :4] + p["w"][:, 2:])


@program()
def stacked(dtype):
    def loss(params, x):
        both = jnp.stack([params["w"], params["v"]])
        return half_square(jnp.einsum("td,sde->ste", x, both))

    return loss, weights(dtype, w=(6, 3), v=(6, 3)), (normal(dtype, N, 4, 6),)


@program()
def gathered_columns_twice(dtype):
    """Some columns more than once, some never."""
    return square(dtype, lambda p: p["w"][:, jnp.array([0, 2, 2, -1])])


@program()
def broadcast(dtype):
    """One row stands for all: not an isometry."""
    return square(dtype, lambda p: jnp.broadcast_to(p["b"], (6, 6)) + p["w"], bias=True)


@program()
def padded_and_tiled(dtype):
    return square(dtype, lambda p: jnp.tile(jnp.pad(p["w"], ((0, 0), (1, 2))), (1, 2)))


@program(surrogate=True, rtol=3e-2)
def cast_to_bfloat16_and_back(dtype):
    """Its cotangent is rounded too: once for each example here, once for their sum elsewhere."""
    return square(dtype, lambda p: p["w"].astype(jnp.bfloat16).astype(dtype))


@program()
def masked(dtype):
    return square(dtype, lambda p: p["w"] * jnp.tril(jnp.ones((6, 6), dtype)))


@program()
def triangle(dtype):
    return square(dtype, lambda p: jnp.tril(p["w"], -1) + jnp.eye(6, dtype=dtype))


@program()
def diagonal(dtype):
    return square(dtype, lambda p: jnp.diag(p["b"]) @ p["w"], bias=True)


@program()
def exponentiated(dtype):
    return square(dtype, lambda p: jnp.exp(p["w"]) - jax.nn.softplus(p["w"]))


@program()
def softmax_rows(dtype):
    return square(dtype, lambda p: jax.nn.softmax(p["w"], axis=-1), bias=True)


@program()
def standardised(dtype):
    def made_from(p):
        w = p["w"]
        return (w - w.mean(0)) / jnp.sqrt(w.var(0) + 1e-3) * p["b"]

    return square(dtype, made_from, bias=True)


@program()
def symmetrised(dtype):
    return square(dtype, lambda p: p["w"] + p["w"].T)


@program()
def orthogonal_by_expm(dtype):
    return square(dtype, lambda p: jax.scipy.linalg.expm(p["w"] - p["w"].T))


@program()
def orthogonal_by_qr(dtype):
    return square(dtype, lambda p: jnp.linalg.qr(p["w"] + 2 * jnp.eye(6, dtype=dtype))[0])


@program()
def orthogonal_by_cayley(dtype):
    one = jnp.eye(6, dtype=dtype)
    return square(dtype, lambda p: jnp.linalg.solve(one + (p["w"] - p["w"].T), one))


@program()
def squared_matrix(dtype):
    return square(dtype, lambda p: p["w"] @ p["w"])


@program()
def product_of_two(dtype):
    def loss(params, x):
        return half_square(jnp.sin(x @ (params["u"] @ params["v"])))

    return loss, weights(dtype, u=(6, 2), v=(2, 3)), (normal(dtype, N, 4, 6),)


@program()
def kronecker_product(dtype):
    def loss(params, x):
        return half_square(jnp.tanh(x @ jnp.kron(params["u"], params["v"])))

    return loss, weights(dtype, u=(3, 2), v=(2, 2)), (normal(dtype, N, 4, 6),)


@program()
def spectral_by_power_steps(dtype):
    """Divided by a singular value found by three power steps from a constant start."""

    def made_from(p):
        v = jnp.ones(6, dtype)
        for _ in range(3):
            v = p["w"].T @ (p["w"] @ v)
            v = v / jnp.linalg.norm(v)
        return p["w"] / jnp.linalg.norm(p["w"] @ v)

    return square(dtype, made_from)


@program()
def circulant(dtype):
    """Each row is the vector, rolled: multiplied through the Fourier transform."""

    def loss(params, x):
        y = jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(params["b"]), n=6)
        return half_square(jnp.tanh(y))

    return loss, weights(dtype, b=6), (normal(dtype, N, 4, 6),)


@program()
def sorted_weights(dtype):
    return square(dtype, lambda p: jnp.sort(p["w"], axis=0))


@program()
def made_by_a_scan(dtype):
    """A derived value whose making is a loop: no data in it."""

    def made_from(p):
        return lax.scan(lambda w, _: (w @ p["w"] * 0.3 + p["w"], None), p["w"], None, length=3)[0]

    return square(dtype, made_from)


@program()
def made_by_cond_and_vmap(dtype):
    def made_from(p):
        w = lax.cond(p["b"][0] > 0, lambda w: w, lambda w: w.T, p["w"])
        return jax.vmap(lambda row, b: row * b)(w, p["b"])

    return square(dtype, made_from, bias=True)


@program(surrogate=True, rtol=1e-5)
def of_another_dtype(dtype):
    """A parameter in the other precision than the rest of the program."""
    other = jnp.float32 if dtype == jnp.float64 else jnp.bfloat16

    def loss(params, x):
        y = x @ params["w"].astype(dtype) + params["b"].astype(dtype)
        return half_square(jnp.tanh(y))

    params = weights(dtype, w=(6, 3)) | weights(other, b=3)
    return loss, params, (normal(dtype, N, 4, 6),)


@program()
def table_for_lookup_and_output(dtype):
    def loss(params, ids, labels):
        logits = jnp.tanh(params["w"][ids]) @ params["w"].T
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    return loss, weights(dtype, w=(7, 6)), (integers(7, N, 4), integers(7, N, 4, seed=8))


@program()
def tied_autoencoder(dtype):
    def loss(params, x):
        code = jnp.tanh(x @ params["w"] + params["b"])
        return half_square(code @ params["w"].T + params["c"] - x)

    return loss, weights(dtype, w=(6, 3), b=3, c=6), (normal(dtype, N, 4, 6),)


@program()
def scaled_scalar(dtype):
    """One number times a matrix, and one temperature of the logits."""

    def loss(params, x):
        y = x @ (params["scale"] * params["w"])
        return jax.nn.logsumexp(y / jnp.exp(params["temperature"]), axis=-1).sum()

    return loss, weights(dtype, w=(6, 3), scale=(), temperature=()), (normal(dtype, N, 4, 6),)
