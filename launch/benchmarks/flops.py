"""Floating-point operations of a function, from its jaxpr.

XLA's own analysis counts the body of a loop once, however often it runs; here it counts as often as it runs.
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def count_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Operations of all matrix products and convolutions, a multiply-add being two; nothing else is counted.

    Of a convolution only the products of a tap with a pixel count, none with padding or with the zeros between the
    pixels of a strided convolution's gradient. So a convolution and either of its gradients count alike, as papers
    count them, and what is achieved is no more than the machine really did.

    Args:
        function: What to count, traced by `jax.make_jaxpr`; jitted or not, differentiated or not.
        arguments: Its arguments, arrays or their shapes.

    Raises:
        ValueError: a loop holds products, and nobody says how often it runs.
    """
    return _jaxpr_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def has_scan(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether the function holds a scan, so that XLA's own analysis would count too little."""

    def found(jaxpr: Jaxpr) -> bool:
        return any(equation.primitive.name == "scan" or any(map(found, _inner(equation))) for equation in jaxpr.eqns)

    return found(jax.make_jaxpr(function)(*arguments).jaxpr)


def _jaxpr_flops(jaxpr: Jaxpr) -> int:
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left, result = _shapes(equation.invars[0], equation.outvars[0])
        return 2 * prod(result) * prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _convolution_flops(equation)
    inner = [_jaxpr_flops(jaxpr) for jaxpr in _inner(equation)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "while" and any(inner):
        raise ValueError("a while loop holds matrix products, and how often it runs can't be known")
    return sum(inner)


def _convolution_flops(equation: JaxprEqn) -> int:
    params = equation.params
    numbers = params["dimension_numbers"]
    image, kernel, result = _shapes(*equation.invars, *equation.outvars)
    pairs = 1
    for i, (image_axis, kernel_axis, result_axis) in enumerate(
        zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    ):
        starts = np.arange(result[result_axis])[:, None] * params["window_strides"][i] - params["padding"][i][0]
        places = starts + np.arange(kernel[kernel_axis]) * params["rhs_dilation"][i]
        pixel, between = np.divmod(places, params["lhs_dilation"][i])
        pairs *= int(((between == 0) & (pixel >= 0) & (pixel < image[image_axis])).sum())
    batch, outputs = result[numbers.out_spec[0]], result[numbers.out_spec[1]]
    inputs = kernel[numbers.rhs_spec[1]]  # of one group
    return 2 * batch * outputs * inputs * pairs


def _shapes(*variables: Any) -> list[tuple[int, ...]]:
    return [variable.aval.shape for variable in variables]


def _inner(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """The jaxprs that an equation holds."""
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, Jaxpr):
                yield each
