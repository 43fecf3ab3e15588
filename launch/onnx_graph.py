"""From a JAX function to an ONNX graph: one rule for each of JAX's primitives that our networks are made of.

JAX writes a function down as a jaxpr, a list of such primitives, in which batch and time may be symbols; each is
translated by itself. What needs no input, as the sizes of a resize filter, is computed here and becomes a constant.

jax2onnx does this for JAX in general. Its releases to date (0.13 to 0.17) can't be installed beside our Orbax, and
where the number of frames is a symbol, 0.13 gives the fusion's convolutions wrong lengths.
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend.core import Jaxpr, Literal
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
"""Of ONNX's operators: the oldest that has all we use, so that many runtimes know it."""

IR_VERSION = 8
"""The file format that came with it."""


@dataclass(frozen=True)
class Tensor:
    """A value that is known only when the graph runs.

    Attributes:
        name: In the graph.
        dtype: Its numbers.
        shape: Its sizes; 1 may stand where JAX has more, since ONNX's arithmetic broadcasts by itself.
    """

    name: str
    dtype: np.dtype
    shape: tuple[Any, ...]


Value = np.ndarray | Tensor | tuple[Tensor, Tensor]
"""A constant, a tensor, or a complex one: its real and its imaginary part."""


@dataclass
class Graph:
    """A graph as it grows.

    Attributes:
        nodes: Operations in the order in which they run.
        constants: Of each constant its name and itself, found by its bytes.
        symbols: Of each symbolic size the tensor that holds it, int64 of one element.
        numbers: Of the names to come.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[Any, tuple[str, np.ndarray]] = field(default_factory=dict)
    symbols: dict[str, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=count)

    def name(self, kind: str) -> str:
        """A new one."""
        return f"{kind}_{next(self.numbers)}"

    def operation(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Add an operation; the names of what it gives."""
        names = [self.name(kind) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, names[0], **attributes))
        return names

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operation that gives one tensor."""
        return self.operation(kind, *inputs, **attributes)[0]

    def constant(self, value: Any, dtype: Any = None) -> str:
        """The name of a constant."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = (self.name("constant"), array)
        return self.constants[key][0]

    def integers(self, *values: int) -> str:
        """A constant list of numbers, as operations take sizes and axes."""
        return self.constant(values, np.int64)

    def named(self, value: Value) -> str:
        """The name of a value."""
        if isinstance(value, tuple):
            raise NotImplementedError("a complex number can only be taken apart")
        return value.name if isinstance(value, Tensor) else self.constant(value)

    def size(self, size: Any) -> str:
        """A size, which may be an expression of symbols such as "4*frames + 2": int64 of one element."""
        return self._computed(ast.parse(str(size), mode="eval").body)

    def _computed(self, node: ast.AST) -> str:
        kinds: dict[type, str] = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}
        match node:
            case ast.Constant(value=int(number)):
                return self.integers(number)
            case ast.Name(id=symbol):
                return self.symbols[symbol]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in kinds:
                return self.add(kinds[type(op)], self._computed(left), self._computed(right))
        raise NotImplementedError(f"the size {ast.unparse(node)}")

    def sizes(self, shape: Sequence[Any]) -> str:
        """A shape, as one tensor."""
        if all(isinstance(size, int) for size in shape):
            return self.integers(*shape)
        return self.add("Concat", *(self.size(size) for size in shape), axis=0)

    def transposed(self, name: str, order: tuple[int, ...]) -> str:
        """The axes in another order."""
        return name if order == tuple(range(len(order))) else self.add("Transpose", name, perm=order)

    def whole(self, value: Any, aval: Any) -> str:
        """The name of a value that has all of its sizes, as operations need it that don't broadcast."""
        name = self.named(value)
        return name if tuple(value.shape) == tuple(aval.shape) else self.add("Expand", name, self.sizes(aval.shape))


def to_onnx(
    function: Callable[[dict[str, Any]], dict[str, jax.Array]], inputs: Mapping[str, jax.ShapeDtypeStruct], name: str
) -> onnx.ModelProto:
    """A function as an ONNX model.

    Args:
        function: From named arrays to named arrays.
        inputs: Shapes, which may hold symbols of `jax.export.symbolic_shape`, and dtypes.
        name: Of the graph.

    Raises:
        NotImplementedError: The function is made of something that there is no rule for.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(dict(inputs))
    graph = Graph()
    taken = [Tensor(each, np.dtype(inputs[each].dtype), tuple(inputs[each].shape)) for each in sorted(inputs)]
    for tensor in taken:
        for axis, size in enumerate(tensor.shape):
            if str(size).isidentifier() and str(size) not in graph.symbols:
                graph.symbols[str(size)] = graph.add("Shape", tensor.name, start=axis, end=axis + 1)
    given = translate(graph, closed.jaxpr, closed.consts, taken)
    for each, value, var in zip(sorted(shapes), given, closed.jaxpr.outvars, strict=True):
        graph.nodes.append(helper.make_node("Identity", [graph.whole(value, var.aval)], [each]))
    constants = [numpy_helper.from_array(array, each) for each, array in graph.constants.values()]
    outputs = [value_info(each, shapes[each]) for each in sorted(shapes)]
    body = helper.make_graph(
        graph.nodes, name, [value_info(each, inputs[each]) for each in sorted(inputs)], outputs, constants
    )
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="avemo"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def value_info(name: str, shape: Any) -> onnx.ValueInfoProto:
    """Name, numbers and sizes of what a graph takes or gives."""
    sizes = [size if isinstance(size, int) else str(size) for size in shape.shape]
    return helper.make_tensor_value_info(name, element_type(shape.dtype), sizes)


def element_type(dtype: Any) -> int:
    """ONNX's number for a dtype."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def translate(graph: Graph, jaxpr: Jaxpr, constants: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
    """Add a jaxpr's operations to a graph; the values that it gives."""
    known: dict[Any, Value] = dict(zip(jaxpr.constvars, map(np.asarray, constants), strict=True))
    known |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(var: Any) -> Value:
        return np.asarray(var.val, var.aval.dtype) if isinstance(var, Literal) else known[var]  # type: ignore[attr-defined]

    for eqn in jaxpr.eqns:
        values = [read(var) for var in eqn.invars]
        rule = RULES.get(eqn.primitive.name)
        results: list[Value]
        if eqn.primitive.name not in NEVER_COMPUTED and is_constant(eqn, values):
            found = eqn.primitive.bind(*values, **eqn.params)
            results = [np.asarray(each) for each in (found if eqn.primitive.multiple_results else [found])]
        elif rule is None:
            raise NotImplementedError(f"JAX's primitive {eqn.primitive.name}")
        else:
            results = rule(graph, eqn, values)
        known |= dict(zip(eqn.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def is_constant(eqn: Any, values: Sequence[Value]) -> bool:
    """Whether an operation has no inputs but constants, and gives sizes that are numbers."""
    sizes = [size for var in eqn.outvars for size in var.aval.shape]
    return all(isinstance(each, np.ndarray) for each in values) and all(isinstance(size, int) for size in sizes)


Rule = Callable[[Graph, Any, Sequence[Any]], list[Value]]
"""What an equation of a jaxpr becomes: its values from the values that it takes."""


def elementwise(kind: str) -> Rule:
    """The rule of an operation on each number alone; it broadcasts."""

    def rule(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
        name = graph.add(kind, *map(graph.named, values))
        return [Tensor(name, eqn.outvars[0].aval.dtype, broadcast(values))]

    return rule


def broadcast(values: Sequence[Any]) -> tuple[Any, ...]:
    """The shape that ONNX gives values of these shapes together."""
    axes = max(len(value.shape) for value in values)
    padded = [(1,) * (axes - len(value.shape)) + tuple(value.shape) for value in values]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True))


def whole_result(translated: Callable[[Graph, Any, list[str]], str]) -> Rule:
    """The rule of an operation with one result that takes its inputs whole, by their names."""

    def rule(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
        names = [graph.whole(value, var.aval) for value, var in zip(values, eqn.invars, strict=True)]
        aval = eqn.outvars[0].aval
        return [Tensor(translated(graph, eqn, names), aval.dtype, tuple(aval.shape))]

    return rule


def _unchanged(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
    return list(values)


def _call(argument: str) -> Rule:
    """A function within the function."""

    def rule(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
        called = eqn.params[argument]
        return translate(graph, called.jaxpr, called.consts, values)

    return rule


def _default_platform(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
    """Which branch is for platforms in general: what is written for XLA on a CPU is no good elsewhere."""
    return [np.asarray(eqn.params["platforms"].index(None))]


def _branch(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
    which, *operands = values
    if not isinstance(which, np.ndarray):
        raise NotImplementedError("a branch that depends on an input")
    chosen = eqn.params["branches"][int(which)]
    return translate(graph, chosen.jaxpr, chosen.consts, operands)


def _scan(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
    """A loop over the first axis, which its step does not see; what stays the same is simply seen from within."""
    if eqn.params["reverse"]:
        raise NotImplementedError("a scan backwards")
    body = Graph(constants=graph.constants, symbols=graph.symbols, numbers=graph.numbers)
    jaxpr, axes = eqn.params["jaxpr"].jaxpr, lambda var: len(var.aval.shape)
    # How many there are is told by their axes; where JAX tells it depends on its version.
    scanned = sum(axes(whole) > axes(step) for whole, step in zip(eqn.invars, jaxpr.invars, strict=True))
    carried = sum(axes(whole) == axes(step) for whole, step in zip(eqn.outvars, jaxpr.outvars, strict=True))
    fixed = len(jaxpr.invars) - carried - scanned
    inside = [Tensor(graph.name("step"), var.aval.dtype, tuple(var.aval.shape)) for var in jaxpr.invars[fixed:]]
    given = translate(body, jaxpr, eqn.params["jaxpr"].consts, [*values[:fixed], *inside])
    results = [
        (body.add("Identity", body.whole(value, var.aval)), var)
        for value, var in zip(given, jaxpr.outvars, strict=True)
    ]
    subgraph = helper.make_graph(
        body.nodes,
        graph.name("body"),
        [value_info(each.name, each) for each in inside],
        [value_info(name, var.aval) for name, var in results],
    )
    whole = [graph.whole(value, var.aval) for value, var in zip(values[fixed:], eqn.invars[fixed:], strict=True)]
    names = graph.operation("Scan", *whole, outputs=len(results), body=subgraph, num_scan_inputs=scanned)
    return [Tensor(name, var.aval.dtype, tuple(var.aval.shape)) for name, var in zip(names, eqn.outvars, strict=True)]


def _split(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
    whole, sizes = graph.whole(values[0], eqn.invars[0].aval), graph.integers(*eqn.params["sizes"])
    names = graph.operation("Split", whole, sizes, outputs=len(eqn.outvars), axis=eqn.params["axis"])
    return [Tensor(name, var.aval.dtype, tuple(var.aval.shape)) for name, var in zip(names, eqn.outvars, strict=True)]


def _broadcast_in_dim(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
    """Axes of size 1 where JAX repeats; whoever needs them repeated asks `Graph.whole`."""
    value, aval = values[0], eqn.outvars[0].aval
    shape: list[Any] = [1] * len(aval.shape)
    for axis, place in enumerate(eqn.params["broadcast_dimensions"]):
        shape[place] = value.shape[axis]
    if isinstance(value, np.ndarray):
        return [value.reshape(shape)]
    if tuple(shape) == value.shape:
        return [value]
    return [Tensor(_reshaped(graph, value.name, value.shape, shape), value.dtype, tuple(shape))]


def _reshaped(graph: Graph, name: str, before: Sequence[Any], after: Sequence[Any]) -> str:
    """0 keeps a size, -1 is what is left."""
    sizes = [0 if i < len(before) and before[i] == size else size for i, size in enumerate(after)]
    if sum(not isinstance(size, int) for size in sizes) > 1:
        return graph.add("Reshape", name, graph.sizes(after))
    return graph.add("Reshape", name, graph.integers(*(size if isinstance(size, int) else -1 for size in sizes)))


def _reshape(graph: Graph, eqn: Any, names: list[str]) -> str:
    return _reshaped(graph, names[0], eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape)


def _cast(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
    dtype = eqn.outvars[0].aval.dtype
    if values[0].dtype == dtype:
        return [values[0]]
    return [Tensor(graph.add("Cast", graph.named(values[0]), to=element_type(dtype)), dtype, tuple(values[0].shape))]


def _select(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
    which, when_false, when_true = values
    name = graph.add("Where", *map(graph.named, (which, when_true, when_false)))
    return [Tensor(name, eqn.outvars[0].aval.dtype, broadcast(values))]


def _power(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
    if eqn.params["y"] != 2:
        raise NotImplementedError(f"the power {eqn.params['y']}")
    return elementwise("Mul")(graph, eqn, [values[0]] * 2)


def _square(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
    return elementwise("Mul")(graph, eqn, [values[0]] * 2)


def _reciprocal_root(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
    root = elementwise("Sqrt")(graph, eqn, values)
    return elementwise("Reciprocal")(graph, eqn, root)


def _log_of_one_more(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
    more = elementwise("Add")(graph, eqn, [values[0], np.ones((), values[0].dtype)])
    return elementwise("Log")(graph, eqn, more)


def _unequal(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
    return elementwise("Not")(graph, eqn, elementwise("Equal")(graph, eqn, values))


def _reduce(kind: str) -> Rule:
    return whole_result(
        lambda graph, eqn, names: graph.add(kind, names[0], graph.integers(*eqn.params["axes"]), keepdims=0)
    )


def _pad(graph: Graph, eqn: Any, names: list[str]) -> str:
    before, after, between = zip(*eqn.params["padding_config"], strict=True)
    if min(*before, *after) < 0 or any(between):
        raise NotImplementedError(f"the padding {eqn.params['padding_config']}")
    return graph.add("Pad", names[0], graph.integers(*before, *after), names[1])


def _slice(graph: Graph, eqn: Any, names: list[str]) -> str:
    params = eqn.params
    strides = params["strides"] or (1,) * len(params["start_indices"])
    axes = graph.integers(*range(len(strides)))
    starts, ends = graph.sizes(params["start_indices"]), graph.sizes(params["limit_indices"])
    return graph.add("Slice", names[0], starts, ends, axes, graph.integers(*strides))


def _gather(graph: Graph, eqn: Any, names: list[str]) -> str:
    """The only kind that our networks have: a slice of one axis, from where an index says on."""
    numbers, sizes, shape = eqn.params["dimension_numbers"], eqn.params["slice_sizes"], eqn.invars[0].aval.shape
    others = [size for axis, size in enumerate(sizes) if axis not in numbers.start_index_map]
    if len(numbers.start_index_map) != 1 or numbers.collapsed_slice_dims or eqn.invars[1].aval.shape != (1,):
        raise NotImplementedError("a gather that is no slice")
    (axis,) = numbers.start_index_map
    if others != [size for each, size in enumerate(shape) if each != axis]:
        raise NotImplementedError("a gather that is no slice of one axis")
    start = graph.add("Cast", names[1], to=TensorProto.INT64)
    return graph.add("Slice", names[0], start, graph.add("Add", start, graph.size(sizes[axis])), graph.integers(axis))


def _size(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
    """A size as a number."""
    dtype = eqn.outvars[0].aval.dtype
    number = graph.add("Squeeze", graph.size(eqn.params["dim"]), graph.integers(0))
    return [Tensor(graph.add("Cast", number, to=element_type(dtype)), dtype, ())]


def _convolution(graph: Graph, eqn: Any, names: list[str]) -> str:
    """ONNX has channels first, so the maps are turned there and back; runtimes take such pairs out again."""
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    if params["batch_group_count"] != 1 or any(each != 1 for each in params["lhs_dilation"]):
        raise NotImplementedError("a transposed convolution")
    before, after = zip(*params["padding"], strict=True)
    maps = graph.add(
        "Conv",
        graph.transposed(names[0], numbers.lhs_spec),
        graph.transposed(names[1], numbers.rhs_spec),
        strides=params["window_strides"],
        dilations=params["rhs_dilation"],
        pads=(*before, *after),
        group=params["feature_group_count"],
    )
    return graph.transposed(maps, tuple(np.argsort(numbers.out_spec).tolist()))


def _pool(kind: str) -> Rule:
    """Over height and width of BxHxWxC; a sum is the mean times their product."""

    def translated(graph: Graph, eqn: Any, names: list[str]) -> str:
        params = eqn.params
        window, before, after = params["window_dimensions"], *zip(*params["padding"], strict=True)
        if len(window) != 4 or window[0] != 1 or window[3] != 1 or (kind == "AveragePool" and any((*before, *after))):
            raise NotImplementedError(f"pooling over {window} with padding {params['padding']}")
        settings = {"kernel_shape": window[1:3], "strides": params["window_strides"][1:3]}
        maps = graph.add(kind, graph.transposed(names[0], (0, 3, 1, 2)), pads=(*before[1:3], *after[1:3]), **settings)
        if kind == "AveragePool":
            maps = graph.add("Mul", maps, graph.constant(window[1] * window[2], eqn.outvars[0].aval.dtype))
        return graph.transposed(maps, (0, 2, 3, 1))

    return whole_result(translated)


def _matrix_product(graph: Graph, eqn: Any, names: list[str]) -> str:
    (left_axes, right_axes), batch_axes = eqn.params["dimension_numbers"]
    left_var, right_var = eqn.invars
    if batch_axes != ((), ()) or len(left_axes) != 1:
        raise NotImplementedError(f"the product {eqn.params['dimension_numbers']}")
    given = eqn.outvars[0].aval.dtype
    left, right = (
        name if var.aval.dtype == given else graph.add("Cast", name, to=element_type(given))
        for name, var in zip(names, eqn.invars, strict=True)
    )
    first, last = lambda axes, axis: (axis, *_but(axes, axis)), lambda axes, axis: (*_but(axes, axis), axis)
    left_ndim, right_ndim = left_var.aval.ndim, right_var.aval.ndim
    if right_ndim == 2:
        left = graph.transposed(left, last(left_ndim, left_axes[0]))
        return graph.add("MatMul", left, graph.transposed(right, first(2, right_axes[0])))
    if left_ndim != 2:
        raise NotImplementedError("a product of two arrays of more than two axes")
    right = graph.transposed(right, last(right_ndim, right_axes[0]))
    product = graph.add("MatMul", right, graph.transposed(left, first(2, left_axes[0])))
    return graph.transposed(product, (right_ndim - 1, *range(right_ndim - 1)))


def _but(axes: int, axis: int) -> list[int]:
    return [each for each in range(axes) if each != axis]


def _real_fourier(graph: Graph, eqn: Any, values: Sequence[Any]) -> list[Value]:
    """A real Fourier transform as products with cosines and sines, since few runtimes know ONNX's own.

    The tables are computed as the file is loaded, or else they would be most of it.
    """
    (size,) = eqn.params["fft_lengths"]
    if eqn.params["fft_type"] != jax.lax.FftType.RFFT:
        raise NotImplementedError(f"the transform {eqn.params['fft_type']}")
    turns = graph.add("Mul", graph.constant(np.arange(size)[:, None]), graph.constant(np.arange(size // 2 + 1)))
    part = graph.add("Cast", graph.add("Mod", turns, graph.integers(size)), to=TensorProto.FLOAT)
    angle = graph.add("Mul", part, graph.constant(-2 * np.pi / size, np.float32))
    sound, shape = graph.whole(values[0], eqn.invars[0].aval), tuple(eqn.outvars[0].aval.shape)
    real, imaginary = (
        Tensor(graph.add("MatMul", sound, graph.add(kind, angle)), np.dtype(np.float32), shape)
        for kind in ("Cos", "Sin")
    )
    return [(real, imaginary)]


NEVER_COMPUTED = {"cond", "custom_jvp_call", "custom_vjp_call", "dim_as_value", "jit", "platform_index"}
"""Primitives that have no value by themselves, even where all they take is constant."""

RULES: dict[str, Rule] = {
    "abs": elementwise("Abs"),
    "add": elementwise("Add"),
    "and": elementwise("And"),
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": whole_result(lambda graph, eqn, names: graph.add("Concat", *names, axis=eqn.params["dimension"])),
    "cond": _branch,
    "conv_general_dilated": whole_result(_convolution),
    "convert_element_type": _cast,
    "custom_jvp_call": _call("call_jaxpr"),
    "custom_vjp_call": _call("call_jaxpr"),
    "dim_as_value": _size,
    "div": elementwise("Div"),
    "dot_general": whole_result(_matrix_product),
    "exp": elementwise("Exp"),
    "fft": _real_fourier,
    "gather": whole_result(_gather),
    "imag": lambda graph, eqn, values: [values[0][1]],
    "integer_pow": _power,
    "jit": _call("jaxpr"),
    "log": elementwise("Log"),
    "log1p": _log_of_one_more,
    "logistic": elementwise("Sigmoid"),
    "max": elementwise("Max"),
    "min": elementwise("Min"),
    "mul": elementwise("Mul"),
    "ne": _unequal,
    "neg": elementwise("Neg"),
    "pad": whole_result(_pad),
    "platform_index": _default_platform,
    "real": lambda graph, eqn, values: [values[0][0]],
    "reduce_max": _reduce("ReduceMax"),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_window_max": _pool("MaxPool"),
    "reduce_window_sum": _pool("AveragePool"),
    "reshape": whole_result(_reshape),
    "rsqrt": _reciprocal_root,
    "scan": _scan,
    "select_n": _select,
    "slice": whole_result(_slice),
    "split": _split,
    "square": _square,
    "squeeze": whole_result(_reshape),
    "stop_gradient": _unchanged,
    "sub": elementwise("Sub"),
    "tanh": elementwise("Tanh"),
    "transpose": whole_result(lambda graph, eqn, names: graph.transposed(names[0], eqn.params["permutation"])),
}
"""How each primitive is said in ONNX."""
