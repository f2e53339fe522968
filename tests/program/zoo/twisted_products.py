"""Products and convolutions with the weight in every place and layout."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tests.program.record import (
    N,
    Program,
    family,
    half_square,
    normal,
    one_layer,
    sequence,
    weights,
)

TWISTED_PRODUCTS: list[Program] = []
program = family("products", TWISTED_PRODUCTS)


# --- products -----------------------------------------------------------------------------------


@program()
def weight_on_the_left(dtype):
    def loss(params, x):
        return half_square(jnp.tanh(params["w"] @ x.T + params["b"][:, None]))

    return loss, weights(dtype, w=(3, 6), b=3), sequence(dtype)


@program()
def dot_general_of_two_axes(dtype):
    """Contracted in another order than the axes stand, the free axes around them."""

    def loss(params, x):
        y = lax.dot_general(params["w"], x, (((3, 1), (0, 1)), ((), ())))
        return half_square(jnp.tanh(y))

    return loss, weights(dtype, w=(2, 6, 3, 4)), sequence(dtype)


@program()
def weight_of_each_head_and_position(dtype):
    def loss(params, x):
        heads = jnp.einsum("td,hde->the", x, params["heads"])
        mixed = jnp.einsum("the,thef->tf", jnp.tanh(heads), params["positions"])
        return half_square(jnp.einsum("tf,ft->t", mixed, params["diagonal"]))

    params = weights(dtype, heads=(2, 6, 3), positions=(4, 2, 3, 6), diagonal=(6, 4))
    return loss, params, sequence(dtype)


@program()
def batch_dim_on_the_weight_alone(dtype):
    """The product of a weight with a weight that data has touched."""

    def loss(params, x):
        return half_square(jnp.einsum("hij,hjk->hik", params["u"], params["v"] * x[:2, :3, None]))

    return loss, weights(dtype, u=(2, 6, 3), v=(2, 3, 4)), sequence(dtype)


@program()
def products_of_data(dtype):
    """Attention without a weight, then an outer product that meets a parameter."""

    def loss(params, x):
        y = jax.nn.softmax(x @ x.T) @ x
        return half_square(jnp.einsum("i,j,ijk->k", y[0], x[1], params["w"]))

    return loss, weights(dtype, w=(6, 6, 3)), sequence(dtype)


@program()
def bilinear_form(dtype):
    def loss(params, x, y):
        return jnp.tanh(x @ params["w"] @ y) + jnp.einsum("i,ij,j->", y, params["w"], x) ** 2

    return loss, weights(dtype, w=(6, 6)), (normal(dtype, N, 6), normal(dtype, N, 6, seed=6))


@program()
def quadratic_in_the_parameter(dtype):
    """xᵀ WᵀW x, and a parameter times itself with data between."""

    def loss(params, x):
        y = x @ params["w"].T
        return half_square(y @ params["w"]) + jnp.sum(params["b"] * x * params["b"])

    return loss, one_layer(dtype), sequence(dtype)


@program()
def added_then_squared(dtype):
    """A bias that reaches positions by broadcasting along every axis."""

    def loss(params, x):
        y = x + params["row"] + params["column"][:, None] + params["scalar"]
        return jnp.sum(y**2 * params["row"])

    return loss, weights(dtype, row=6, column=4, scalar=()), sequence(dtype)


@program()
def divided_and_powered(dtype):
    def loss(params, x):
        y = params["a"] / (1 + x**2) - x / (2 + params["b"] ** 2)
        power = (1 + x**2) ** params["a"]
        return jnp.sum(power * y + jnp.arctan2(params["b"], 2 + x) + jnp.logaddexp(x, params["a"]))

    return loss, weights(dtype, a=6, b=6), sequence(dtype)


@program()
def complex_numbers(dtype):
    """A complex rotation of data by learned phases, and a filter between two transforms."""

    def loss(params, x):
        spectrum = jnp.fft.fft(x, axis=0) * jnp.exp(1j * params["phase"])
        spectrum = spectrum * lax.complex(params["real"], params["imaginary"])
        return half_square(jnp.fft.ifft(spectrum, axis=0).real) + jnp.sum(jnp.abs(spectrum))

    return loss, weights(dtype, phase=6, real=(4, 6), imaginary=(4, 6)), sequence(dtype)


# --- convolutions -------------------------------------------------------------------------------


def convolve(x, w, numbers, padding: Any = "SAME", strides=None, **options):
    return lax.conv_general_dilated(
        x[None], w, strides or (1,) * (w.ndim - 2), padding, dimension_numbers=numbers, **options
    )[0]


@program()
def conv_channels_first(dtype):
    def loss(params, x):
        y = convolve(x, params["w"], ("NCHW", "OIHW", "NCHW"), "VALID", (2, 1))
        return half_square(jnp.tanh(y + params["b"][:, None, None]))

    return loss, weights(dtype, w=(4, 3, 3, 2), b=4), (normal(dtype, N, 3, 6, 7),)


@program()
def conv_odd_layout(dtype):
    """Kernel and output in an order that nobody uses."""

    def loss(params, x):
        y = convolve(
            x, params["w"], ("NHWC", "HOWI", "CHNW"), ((1, 0), (2, 1)), rhs_dilation=(1, 2)
        )
        return half_square(jnp.tanh(y))

    return loss, weights(dtype, w=(2, 4, 3, 3)), (normal(dtype, N, 6, 7, 3),)


@program()
def conv_one_axis_negative_padding(dtype):
    def loss(params, x):
        y = convolve(x, params["w"], ("NWC", "WIO", "NWC"), ((-1, 3),), (2,), lhs_dilation=(2,))
        return half_square(jnp.tanh(y))

    return loss, weights(dtype, w=(3, 3, 4)), (normal(dtype, N, 6, 3),)


@program()
def conv_three_axes_grouped(dtype):
    def loss(params, x):
        y = convolve(x, params["w"], ("NDHWC", "DHWIO", "NDHWC"), feature_group_count=2)
        return half_square(jnp.tanh(y))

    return loss, weights(dtype, w=(2, 1, 2, 2, 6)), (normal(dtype, N, 3, 3, 2, 4),)


@program()
def conv_batch_groups(dtype):
    """The batch axis of the convolution holds groups of one example."""

    def loss(params, x):
        y = lax.conv_general_dilated(
            x,
            params["w"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            batch_group_count=2,
        )
        return half_square(jnp.tanh(y))

    return loss, weights(dtype, w=(2, 3, 3, 4)), (normal(dtype, N, 4, 3, 4, 3),)


@program()
def conv_of_a_derived_kernel(dtype):
    """Standardised, flipped, and used twice: forwards and transposed."""

    def loss(params, x):
        w = params["w"] / jnp.sqrt(jnp.sum(params["w"] ** 2, (0, 1, 2)))
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jnp.tanh(convolve(x, w, numbers))
        back = convolve(y, jnp.swapaxes(w[::-1, ::-1], 2, 3), numbers)
        return half_square(back - x)

    return loss, weights(dtype, w=(3, 3, 2, 4)), (normal(dtype, N, 4, 6, 2),)


@program()
def conv_of_a_parameter_with_data_as_kernel(dtype):
    """A learned image, filtered by the example."""

    def loss(params, x):
        y = convolve(params["image"], x, ("NHWC", "HWIO", "NHWC"), "VALID")
        return half_square(jnp.tanh(y))

    return loss, weights(dtype, image=(6, 7, 2)), (normal(dtype, N, 3, 2, 2, 3),)


@program()
def patches_and_windows(dtype):
    """Unfolded patches times a matrix, then a window's maximum and sum of what came out."""

    def loss(params, x):
        patches = lax.conv_general_dilated_patches(
            x[None], (2, 2), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]
        y = patches @ params["w"] + params["b"]
        high = lax.reduce_window(y, -jnp.inf, lax.max, (2, 2, 1), (2, 2, 1), "VALID")
        return half_square(high) + half_square(
            lax.reduce_window(y, 0.0, lax.add, (2, 2, 1), (1, 1, 1), "SAME")
        )

    return loss, weights(dtype, w=(12, 4), b=4), (normal(dtype, N, 6, 6, 3),)
