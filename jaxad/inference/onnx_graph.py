"""A function of JAX as an ONNX model, as far as detectors need it.

The function is traced for any number of images, and its operations become nodes one by
one. What does not depend on the images is computed here and now, so that weights and
matrices of a resize are constants of the model, and of code that depends on the
platform the general one is taken. The axis of images is the only one without a size.

References:
  ONNX operators, opset `OPSET` (onnx.ai/onnx/operators).
"""

import math
import string
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import onnx
from jax import export
from jax.extend import core
from onnx import helper, numpy_helper

from jaxad.errors import InputError

OPSET = 18  # onnxruntime 1.14 and later


class _Tensor(str):
    """The name of what the model computes."""


_Value = _Tensor | np.ndarray


def model(
    function: Callable[[Mapping[str, jax.Array], jax.Array], dict[str, jax.Array]],
    arrays: Mapping[str, np.ndarray],
    size: tuple[int, int],
    dtype: np.dtype,
    kept: set[str] = frozenset(),
) -> onnx.ModelProto:
    """The model of `function(arrays, images [b, H, W, 3]) -> {name: [b, ...]}`.

    Args:
      arrays: its constants.
      size: (H, W).
      dtype: of the images.
      kept: names of arrays that stay as they are, and are not computed with here.

    Raises:
      InputError: an operation has no node here.
    """
    (b,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((b, *size, 3), dtype)
    shapes = {x: jax.ShapeDtypeStruct(a.shape, a.dtype) for x, a in arrays.items()}
    traced, out = jax.make_jaxpr(function, return_shape=True)(shapes, images)
    graph = _Graph()
    names = sorted(arrays)  # as JAX orders a dictionary
    given = [
        graph.initializer(arrays[name], name) if name in kept else arrays[name]
        for name in names
    ]
    found = graph.run(traced, [*given, _Tensor("images")])
    outputs = []
    for name, value, aval in zip(sorted(out), found, traced.out_avals, strict=True):
        graph.add("Identity", [value], name=name)
        outputs.append(_info(name, aval.dtype, aval.shape))
    made = helper.make_graph(
        graph.nodes,
        "detector",
        [_info("images", dtype, images.shape)],
        outputs,
        graph.initializers,
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(made, opset_imports=[opset], ir_version=9)


def _info(name: str, dtype, shape) -> onnx.ValueInfoProto:
    sizes = [n if isinstance(n, int) else "b" for n in shape]
    return helper.make_tensor_value_info(name, _type(dtype), sizes)


def _type(dtype) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


class _Graph:
    """Nodes and constants of a model that is being made."""

    def __init__(self):
        self.nodes, self.initializers = [], []
        self._count = None  # of the images, [1]

    def initializer(self, value: np.ndarray, name: str | None = None) -> _Tensor:
        name = name or f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return _Tensor(name)

    def add(self, operator: str, inputs, *, name: str | None = None, **attributes):
        """A node; gives what it computes."""
        inputs = [x if isinstance(x, _Tensor) else self.initializer(x) for x in inputs]
        name = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return _Tensor(name)

    def for_all_images(self, x: np.ndarray, shape) -> _Value:
        """A constant, which there is once, as often as there are images."""
        if all(isinstance(n, int) for n in shape):
            return x
        if self._count is None:
            self._count = self.add("Shape", [_Tensor("images")], start=0, end=1)
        sizes = [_axes([n]) if isinstance(n, int) else self._count for n in shape]
        return self.add("Expand", [x, self.add("Concat", sizes, axis=0)])

    def run(self, closed: core.ClosedJaxpr, given: list[_Value]) -> list[_Value]:
        """The results of a traced function."""
        values = dict(zip(closed.jaxpr.invars, given, strict=True))
        constants = map(np.asarray, closed.consts)
        values |= zip(closed.jaxpr.constvars, constants, strict=True)
        needed = _needed(closed.jaxpr)
        for equation in closed.jaxpr.eqns:
            if not needed & set(equation.outvars):
                continue
            read = [
                np.asarray(x.val, x.aval.dtype)
                if isinstance(x, core.Literal)
                else values[x]
                for x in equation.invars
            ]
            found = self._apply(equation, read)
            values |= zip(equation.outvars, found, strict=True)
        return [
            np.asarray(x.val) if isinstance(x, core.Literal) else values[x]
            for x in closed.jaxpr.outvars
        ]

    def _apply(self, equation, read: list[_Value]) -> list[_Value]:
        name, parameters = equation.primitive.name, equation.params
        if name == "platform_index":
            return [np.int32(len(parameters["platforms"]) - 1)]  # the general one
        if name == "cond" and not isinstance(read[0], _Tensor):
            return self.run(parameters["branches"][int(read[0])], read[1:])
        for inner in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            if inner in parameters and name in _CALLS:
                return self.run(_closed(parameters[inner]), read)
        if name == "broadcast_in_dim" and not isinstance(read[0], _Tensor):
            return [self._constant_broadcast(read[0], **parameters)]
        if not any(isinstance(x, _Tensor) for x in read):
            return self._computed(equation, read)
        node = _NODES.get(name)
        if node is None:
            raise _no_form(name)
        return [node(self, equation, *read)]

    def _constant_broadcast(self, x, *, shape, broadcast_dimensions, **_):
        """One image of what is the same for all, which nodes broadcast."""
        sizes = [n if isinstance(n, int) else 1 for n in shape]
        to = [1] * len(sizes)
        for axis, n in zip(broadcast_dimensions, np.shape(x), strict=True):
            to[axis] = n
        return np.broadcast_to(np.reshape(x, to), sizes)

    def _computed(self, equation, read) -> list[np.ndarray]:
        found = equation.primitive.bind(*read, **equation.params)
        found = found if equation.primitive.multiple_results else [found]
        return [np.asarray(x) for x in found]


_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2"}


def _closed(jaxpr) -> core.ClosedJaxpr:
    return jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, ())


def _needed(jaxpr) -> set:
    """Variables that the results depend on."""
    needed = {x for x in jaxpr.outvars if isinstance(x, core.Var)}
    for equation in reversed(jaxpr.eqns):
        if needed & set(equation.outvars):
            needed |= {x for x in equation.invars if isinstance(x, core.Var)}
    return needed


def _no_form(operation: str) -> InputError:
    return InputError(
        f"the operation {operation} of this detector has no ONNX form here; --format "
        "stablehlo takes it"
    )


# ---- Nodes: (graph, equation, inputs) -> what it computes


def _plain(operator: str):
    return lambda graph, equation, *read: graph.add(operator, read)


def _sizes(shape) -> np.ndarray:
    """Of a reshape: the axis of unknown size is -1."""
    return np.array([n if isinstance(n, int) else -1 for n in shape], np.int64)


def _reshape(graph, equation, x, *_):
    return graph.add("Reshape", [x, _sizes(equation.outvars[0].aval.shape)])


def _axes(axes) -> np.ndarray:
    return np.array(axes, np.int64)


def _broadcast(graph, equation, x, *_):
    shape, kept = (
        equation.params["shape"],
        equation.params["broadcast_dimensions"],
    )
    aval = equation.invars[0].aval
    new = [axis for axis in range(len(shape)) if axis not in kept]
    if new:
        x = graph.add("Unsqueeze", [x, _axes(new)])
    before = [1] * len(shape)
    for axis, n in zip(kept, aval.shape, strict=True):
        before[axis] = n
    # What has no size comes from x itself.
    to = [
        n if isinstance(n, int) and n != m else 1
        for n, m in zip(shape, before, strict=True)
    ]
    return graph.add("Expand", [x, _axes(to)]) if max(to) > 1 else x


def _transpose(graph, equation, x):
    return graph.add("Transpose", [x], perm=list(equation.params["permutation"]))


def _cast(graph, equation, x):
    return graph.add("Cast", [x], to=_type(equation.params["new_dtype"]))


def _concatenate(graph, equation, *parts):
    parts = [
        x if isinstance(x, _Tensor) else graph.for_all_images(x, of.aval.shape)
        for x, of in zip(parts, equation.invars, strict=True)
    ]
    return graph.add("Concat", parts, axis=equation.params["dimension"])


def _stack(graph, equation, *parts):
    axis = equation.params["axis"]
    of_shape = equation.invars[0].aval.shape
    parts = [
        x if isinstance(x, _Tensor) else graph.for_all_images(x, of_shape)
        for x in parts
    ]
    parts = [graph.add("Unsqueeze", [x, _axes([axis])]) for x in parts]
    return graph.add("Concat", parts, axis=axis)


def _slice(graph, equation, x):
    found = equation.params
    strides = found["strides"] or (1,) * len(found["start_indices"])
    taken = [
        (axis, start, stop, step)
        for axis, (start, stop, step, n) in enumerate(
            zip(
                found["start_indices"],
                found["limit_indices"],
                strides,
                equation.invars[0].aval.shape,
                strict=True,
            )
        )
        if isinstance(n, int) and (start, stop, step) != (0, n, 1)
    ]
    if not taken:
        return x
    axes, starts, stops, steps = (_axes(x) for x in zip(*taken, strict=True))
    return graph.add("Slice", [x, starts, stops, axes, steps])


def _pad(graph, equation, x, value):
    config = equation.params["padding_config"]
    if any(inside for _, _, inside in config):
        raise _no_form("pad")
    pads = _axes([low for low, _, _ in config] + [high for _, high, _ in config])
    return graph.add("Pad", [x, pads, value])


def _reduce(operator: str):
    def node(graph, equation, x):
        return graph.add(operator, [x, _axes(equation.params["axes"])], keepdims=0)

    return node


def _arg(operator: str):
    def node(graph, equation, x):
        (axis,) = equation.params["axes"]
        found = graph.add(operator, [x], axis=axis, keepdims=0)
        return graph.add("Cast", [found], to=_type(equation.params["index_dtype"]))

    return node


def _integer_pow(graph, equation, x):
    dtype = equation.invars[0].aval.dtype
    return graph.add("Pow", [x, np.asarray(equation.params["y"], dtype)])


def _rsqrt(graph, equation, x):
    return graph.add("Reciprocal", [graph.add("Sqrt", [x])])


def _square(graph, equation, x):
    return graph.add("Mul", [x, x])


def _erfc(graph, equation, x):
    one = np.ones((), equation.invars[0].aval.dtype)
    return graph.add("Sub", [one, graph.add("Erf", [x])])


def _not_equal(graph, equation, x, y):
    return graph.add("Not", [graph.add("Equal", [x, y])])


def _select(graph, equation, which, *cases):
    on_false, on_true = cases
    return graph.add("Where", [which, on_true, on_false])


def _dot(graph, equation, x, y):
    (mine, theirs), (my_batch, their_batch) = equation.params["dimension_numbers"]
    letters = iter(string.ascii_letters)
    left = [next(letters) for _ in equation.invars[0].aval.shape]
    right = [next(letters) for _ in equation.invars[1].aval.shape]
    for i, j in zip((*mine, *my_batch), (*theirs, *their_batch), strict=True):
        right[j] = left[i]
    out = [left[i] for i in my_batch]
    out += [a for i, a in enumerate(left) if i not in (*mine, *my_batch)]
    out += [a for j, a in enumerate(right) if j not in (*theirs, *their_batch)]
    if not my_batch and mine == (len(left) - 1,) and theirs == (0,) and len(right) == 2:
        return graph.add("MatMul", [x, y])
    text = f"{''.join(left)},{''.join(right)}->{''.join(out)}"
    return graph.add("Einsum", [x, y], equation=text)


def _conv(graph, equation, x, kernel):
    found = equation.params
    numbers = found["dimension_numbers"]
    if found["batch_group_count"] != 1 or any(n != 1 for n in found["lhs_dilation"]):
        raise _no_form("conv_transpose")
    x = graph.add("Transpose", [x], perm=list(numbers.lhs_spec))
    if isinstance(kernel, _Tensor):
        kernel = graph.add("Transpose", [kernel], perm=list(numbers.rhs_spec))
    else:
        kernel = np.transpose(kernel, numbers.rhs_spec)
    pads = [low for low, _ in found["padding"]] + [high for _, high in found["padding"]]
    y = graph.add(
        "Conv",
        [x, kernel],
        strides=list(found["window_strides"]),
        dilations=list(found["rhs_dilation"]),
        group=found["feature_group_count"],
        pads=pads,
    )
    return graph.add("Transpose", [y], perm=np.argsort(numbers.out_spec).tolist())


def _gather(graph, equation, table, index):
    """`table[index]`, rows of a matrix."""
    found = equation.params
    numbers = found["dimension_numbers"]
    if not isinstance(index, _Tensor):
        return _taken(graph, found, table, index)
    rank, aval = len(found["slice_sizes"]), equation.invars[1].aval
    if (
        tuple(numbers.start_index_map) != (0,)
        or tuple(numbers.collapsed_slice_dims) != (0,)
        or tuple(found["slice_sizes"][1:]) != equation.invars[0].aval.shape[1:]
        or tuple(numbers.offset_dims)
        != tuple(range(aval.ndim - 1, aval.ndim - 2 + rank))
    ):
        raise _no_form("gather")
    index = graph.add("Squeeze", [index, _axes([aval.ndim - 1])])
    return graph.add("Gather", [table, index], axis=0)


def _taken(graph, found, x, index: np.ndarray):
    """`x[:, ::2, 3]` and the like: what JAX makes of slices where a size is unknown.

    Each axis of `index` but the last is that of an axis of x, in order; or there are
    none, and axes of x go.
    """
    numbers = found["dimension_numbers"]
    collapsed, sizes = numbers.collapsed_slice_dims, found["slice_sizes"]
    kept = [axis for axis in range(len(sizes)) if axis not in collapsed]
    lines = index.ndim - 1
    where = iter(kept), iter(collapsed)
    order = [
        next(where[position not in numbers.offset_dims])
        for position in range(len(kept) + lines)
    ]
    if lines not in (0, len(collapsed)) or order != sorted(order):
        raise _no_form("gather")
    columns = dict(zip(numbers.start_index_map, np.moveaxis(index, -1, 0), strict=True))
    for axis in sorted(columns, reverse=True):  # those before keep their place
        values = columns[axis]
        along = collapsed.index(axis) if lines and axis in collapsed else None
        line = values[tuple(slice(None) if i == along else 0 for i in range(lines))]
        shape = [-1 if i == along else 1 for i in range(lines)]
        if (values != line.reshape(shape)).any():
            raise _no_form("gather")
        if axis in collapsed:
            x = graph.add("Gather", [x, line.astype(np.int64)], axis=axis)
        else:
            bounds = _axes([line]), _axes([line + sizes[axis]])
            x = graph.add("Slice", [x, *bounds, _axes([axis])])
    return x


def _pool(graph, equation, x):
    """The largest of a window, or the sum: so many times the mean with its padding."""
    found, summed = equation.params, equation.primitive.name == "reduce_window_sum"
    options = {"count_include_pad": 1} if summed else {}
    window, strides, padding = (
        list(found[name][1:3])
        for name in ("window_dimensions", "window_strides", "padding")
    )
    x = graph.add("Transpose", [x], perm=[0, 3, 1, 2])
    y = graph.add(
        "AveragePool" if summed else "MaxPool",
        [x],
        kernel_shape=window,
        strides=strides,
        pads=[low for low, _ in padding] + [high for _, high in padding],
        **options,
    )
    if summed:
        y = graph.add("Mul", [y, np.asarray(math.prod(window), np.float32)])
    return graph.add("Transpose", [y], perm=[0, 2, 3, 1])


_NODES: dict[str, Callable[..., Any]] = {
    "add": _plain("Add"),
    "sub": _plain("Sub"),
    "mul": _plain("Mul"),
    "div": _plain("Div"),
    "max": _plain("Max"),
    "min": _plain("Min"),
    "pow": _plain("Pow"),
    "neg": _plain("Neg"),
    "abs": _plain("Abs"),
    "exp": _plain("Exp"),
    "log": _plain("Log"),
    "tanh": _plain("Tanh"),
    "sqrt": _plain("Sqrt"),
    "erf": _plain("Erf"),
    "erfc": _erfc,
    "logistic": _plain("Sigmoid"),
    "gt": _plain("Greater"),
    "ge": _plain("GreaterOrEqual"),
    "lt": _plain("Less"),
    "le": _plain("LessOrEqual"),
    "eq": _plain("Equal"),
    "ne": _not_equal,
    "and": _plain("And"),
    "or": _plain("Or"),
    "not": _plain("Not"),
    "stop_gradient": _plain("Identity"),
    "copy": _plain("Identity"),
    "square": _square,
    "rsqrt": _rsqrt,
    "integer_pow": _integer_pow,
    "select_n": _select,
    "convert_element_type": _cast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,  # which older versions of JAX make of others
    "slice": _slice,
    "pad": _pad,
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "argmin": _arg("ArgMin"),
    "argmax": _arg("ArgMax"),
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "gather": _gather,
    "reduce_window_max": _pool,
    "reduce_window_sum": _pool,
}
