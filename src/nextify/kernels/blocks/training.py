"""A whole block of a small network in training: one call into ``blocks_cpu.cpp`` forward, and one backward.

In networks of a few thousand pixels per batch, torch's layers spend as much time on being called, on memory and on
elementwise passes as on products. Here a block's layers run one after the other on memory that stays in a cache. On one
thread, as a study trains its small networks. Results differ from the layers' by rounding only.
"""

import ctypes
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nextify.kernels.gelu.cpu import FLAGS
from nextify.kernels.operators import check_numbers, compiled
from nextify.kernels.pixelwise.products import scratch_address
from nextify.networks.layers import BatchNorm, LayerNorm, Pointwise, SpatialConv
from nextify.networks.network import Block

INPUT, OUT, KEPT, PASSING, OUT_GRAD, INPUT_GRAD = range(6)
"""The memories of a Program."""
KINDS = CONV, DEPTHWISE, BATCH_NORM, LAYER_NORM, RELU, GELU, JOIN, SPLIT = range(8)
LEAST_CHANNELS = 16
"""Fewest of a depthwise convolution: a vector's on any processor."""
BUFFERS = (
    ("running_mean", "running_mean"), ("running_variance", "running_var"), ("batches", "num_batches_tracked")
)  # fmt: skip
"""Of batch norm: our names and torch's."""
FLOATS = 16
"""To which the parts of a buffer are aligned: a line of a cache."""

_SIZES = "kind", "images", "in_height", "in_width", "inputs", "out_height", "out_width", "outputs", "kernel", "stride"
_ADDRESSES = (
    *("x", "weight", "bias", "other", "factor", "y", "statistics", "running_mean", "running_variance", "batches"),
    *("index", "y_grad", "x_grad", "other_grad", "weight_grad", "bias_grad"),
)


class Layer(ctypes.Structure):
    """The C struct: sizes of ``x (images, in_height, in_width, inputs)`` and ``y (images, out_height, …, outputs)``,
    whether ReLU follows, addresses (0 where there is nothing), and a norm's constants."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in (*_SIZES, "relu")),
        *((name, ctypes.c_void_p) for name in _ADDRESSES),
        *((name, ctypes.c_double) for name in ("eps", "momentum")),
    )


def _check(library: ctypes.CDLL) -> None:
    """Raise RuntimeError where a dense convolution of ragged channels, or its gradients, are not NumPy's."""
    for function in (library.nextify_layers, library.nextify_layers_backward):
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_int64], None
    random = np.random.default_rng(0)
    n, h, w, c, out, k = 3, 5, 4, 21, 70, 3
    x, weight = random.standard_normal((n, h, w, c), np.float32), random.standard_normal((out, k, k, c), np.float32)
    bias, grad = random.standard_normal(out, np.float32), random.standard_normal((n, h, w, out), np.float32)
    y, found = np.empty_like(grad), [np.empty_like(a) for a in (x, weight, bias)]
    index = pixels_under_taps(n, h, w, k, 1)
    layer = Layer(CONV, n, h, w, c, h, w, out, k, 1)
    arrays = {"x": x, "weight": weight, "bias": bias, "y": y, "index": index, "y_grad": grad}
    for name, array in {**arrays, **dict(zip(("x_grad", "weight_grad", "bias_grad"), found, strict=True))}.items():
        setattr(layer, name, array.ctypes.data)
    library.nextify_layers(ctypes.byref(layer), 1)
    library.nextify_layers_backward(ctypes.byref(layer), 1)
    views = [np.lib.stride_tricks.sliding_window_view(np.pad(a, ((0, 0), (1, 1), (1, 1), (0, 0))), (k, k), axis=(1, 2))
             for a in (x, grad)]  # (N, H, W, C, K, K)  # fmt: skip
    expected = (
        np.einsum("nhwckl,oklc->nhwo", views[0], weight) + bias,
        np.einsum("nhwokl,oklc->nhwc", views[1], weight[:, ::-1, ::-1]),
        np.einsum("nhwckl,nhwo->oklc", views[0], grad),
        grad.sum((0, 1, 2)),
    )
    check_numbers(list(zip((y, *found), expected, strict=True)), 1e-4, 1e-3)


_library, ready = compiled("blocks", Path(__file__).with_name("blocks_cpu.cpp"), _check, FLAGS)


def pixels_under_taps(images: int, height: int, width: int, kernel: int, stride: int) -> Any:
    """int32 ``(taps, images * H' * W')``: the pixel under each tap of a convolution padded by K // 2, -1 outside."""
    rows, columns = (np.arange(0, side, stride) for side in (height, width))
    taps = np.arange(kernel) - kernel // 2
    at_row, at_column = rows + taps[:, None], columns + taps[:, None]  # (K, H'), (K, W')
    inside = ((at_row >= 0) & (at_row < height))[:, None, None, :, None]
    inside = inside & ((at_column >= 0) & (at_column < width))[None, :, None, None, :]
    first = np.arange(images)[:, None, None] * height * width
    pixels = first + at_row[:, None, None, :, None] * width + at_column[None, :, None, None, :]
    return np.where(inside, pixels, -1).astype(np.int32).reshape(kernel * kernel, -1)


class Described(NamedTuple):
    """A module of the block, and the kind of plain module that it replaces."""

    module: Any
    kind: type[nn.Module]


def kind_of(module: Any, plain: type[nn.Module]) -> int | None:
    """Which of KINDS computes this module; None if none does."""
    if plain is Pointwise:
        return CONV
    if plain is SpatialConv:
        side = module.kernel_size[0]
        plain_padding = module.padding == (side // 2, side // 2) and module.dilation == (1, 1)
        if module.kernel_size != (side, side) or side % 2 == 0 or not plain_padding:
            return None
        if module.groups == 1:
            return CONV
        return DEPTHWISE if module.depthwise and module.in_channels >= LEAST_CHANNELS else None
    if plain is BatchNorm:
        affine = module.affine and module.track_running_stats and module.momentum is not None and module.training
        return BATCH_NORM if affine else None
    if plain is LayerNorm:
        return LAYER_NORM if module.elementwise_affine and module.bias is not None else None
    if plain is nn.GELU:
        return GELU if module.approximate == "none" else None
    return RELU if plain is nn.ReLU else None


def takes(parts: "Parts") -> bool:
    """Whether every layer is one that the kernel computes."""
    return len(parts.branch) > 0 and all(kind_of(*layer) is not None for chain in parts for layer in chain)


class Parts(NamedTuple):
    """A block's layers: its shortcut's, its branch's, and those after the sum."""

    shortcut: Sequence[Described]
    branch: Sequence[Described]
    after: Sequence[Described]


class Program:
    """A block's layers for inputs of one shape, and where in memory each finds and leaves what it works on.

    Memory is the block's input and output, their gradients, ``kept`` floats that live until the backward pass, and
    ``passing`` floats that live as long as it lasts.
    """

    def __init__(self, parts: Parts, shape: torch.Size, block: Block) -> None:
        self.modules = [layer.module for layer in (*parts.shortcut, *parts.branch, *parts.after)]
        self.shape, self.kept, self.passing = shape, 0, 0
        self.forward_places: list[tuple[int, str, int, int]] = []  # layer, field, memory, offset in bytes
        self.backward_places: list[tuple[int, str, int, int]] = []
        self.learned: list[tuple[int, str, nn.Module, str]] = []  # layer, field, and the parameter's place and name
        self.buffers: list[tuple[int, str, nn.Module, str]] = []
        self.tables: list[Any] = []
        layers = [_layer(SPLIT, shape, shape)]
        other, size = self._chain(parts.shortcut, shape, layers, (INPUT, 0))
        branch = len(layers)
        at, size = self._chain(parts.branch, shape, layers, (INPUT, 0))
        join = len(layers)
        layers.append(_layer(JOIN, size, size))
        self.forward_places += [(join, "x", *at), (join, "other", *other)]
        self._leaves(join, size)
        if block.layer_scale is not None:
            self.learned.append((join, "weight", block, "layer_scale"))
        _, self.out_shape = self._chain(parts.after, size, layers, self.forward_places[-1][2:])
        self.forward_places.append((len(layers) - 1, "y", OUT, 0))
        self.join = join
        self._gradients(layers, branch)
        self.layers = (Layer * len(layers))(*layers)

    def _chain(
        self, chain: Sequence[Described], size: torch.Size, layers: list[Layer], at: tuple[int, int]
    ) -> tuple[tuple[int, int], torch.Size]:
        """Append a chain's layers, whose input is at ``at``; return where its output is, and of what size."""
        for module, plain in chain:
            kind = kind_of(module, plain)
            assert kind is not None
            if kind == RELU and at[0] == KEPT and layers[-1].kind in (BATCH_NORM, JOIN):
                layers[-1].relu = 1
                continue
            number, before = len(layers), size
            kernel, stride = 1, 1
            if kind in (CONV, DEPTHWISE):
                stride = module.stride if plain is Pointwise else module.stride[0]
                kernel = 1 if plain is Pointwise else module.kernel_size[0]
                size = torch.Size((size[0], *(-(-side // stride) for side in size[1:3]), module.weight.shape[0]))
            layers.append(_layer(kind, before, size, kernel=kernel, stride=stride))
            self.forward_places.append((number, "x", *at))
            at = self._leaves(number, size)
            names = [name for name in ("weight", "bias") if module._parameters.get(name) is not None]
            self.learned += [(number, name, module, name) for name in names]
            if kind in (BATCH_NORM, LAYER_NORM):
                layers[-1].eps, layers[-1].momentum = module.eps, getattr(module, "momentum", 0.0)
                self.forward_places.append(
                    (number, "statistics", KEPT, self._keep(2 * max(size[-1], size[:3].numel())))
                )
            if kind == BATCH_NORM:
                self.buffers += [(number, field, module, name) for field, name in BUFFERS]
            if kind == CONV and (kernel > 1 or stride > 1):
                self.tables.append(pixels_under_taps(*before[:3], kernel, stride))
                layers[-1].index = self.tables[-1].ctypes.data
        return at, size

    def _keep(self, floats: int) -> int:
        at, self.kept = self.kept, self.kept + -(-floats // FLOATS) * FLOATS
        return 4 * at

    def _leaves(self, number: int, size: torch.Size) -> tuple[int, int]:
        """A place for a layer's output."""
        self.forward_places.append((number, "y", KEPT, at := self._keep(size.numel())))
        return KEPT, at

    def _gradients(self, layers: list[Layer], branch: int) -> None:
        """Each chain has two places for gradients: a convolution reads one and writes the other, other layers one."""
        ends = []
        for field, first, end in (("y_grad", self.join + 1, len(layers)), ("x_grad", branch, self.join),
                                  ("other_grad", 1, branch)):  # fmt: skip
            most = max(_floats(layer) for layer in (*layers[first:end], layers[self.join]))
            places = [(PASSING, 4 * (self.passing + i * most)) for i in range(2)]
            self.passing += 2 * most
            if field == "y_grad":
                at = OUT_GRAD, 0
            else:
                at = places[0]
                self.backward_places.append((self.join, field, *at))
            for number in reversed(range(first, end)):
                self.backward_places.append((number, "y_grad", *at))
                if layers[number].kind in (CONV, DEPTHWISE) or at[0] == OUT_GRAD:
                    at = places[at == places[0]]
                self.backward_places.append((number, "x_grad", *at))
            ends.append(at)
        after, of_branch, of_shortcut = ends
        self.backward_places += [(self.join, "y_grad", *after), (0, "x_grad", INPUT_GRAD, 0)]
        self.backward_places += [(0, "y_grad", *of_branch), (0, "other", *of_shortcut)]

    def place(self, places: Sequence[tuple[int, str, int, int]], memory: Sequence[int]) -> None:
        for layer, field, which, offset in places:
            setattr(self.layers[layer], field, memory[which] + offset)


_programs: weakref.WeakKeyDictionary[Block, list[Program]] = weakref.WeakKeyDictionary()


def program_of(block: Block, parts: Parts, shape: torch.Size) -> Program:
    """The block's program for inputs of this shape, made when first asked for."""
    modules = [layer.module for layer in (*parts.shortcut, *parts.branch, *parts.after)]
    known = _programs.setdefault(block, [])
    for program in known:
        if program.shape == shape and program.modules == modules:
            return program
    known[:] = [*known[-3:], Program(parts, shape, block)]  # a few, as images may change their size
    return known[-1]


def _layer(
    kind: int, before: torch.Size, after: torch.Size, *, kernel: int = 1, stride: int = 1, relu: int = 0
) -> Layer:
    return Layer(kind, *before, *after[1:], kernel, stride, relu)


def _floats(layer: Layer) -> int:
    """Of a layer's input or output, whichever is larger, in whole lines."""
    pixels, after = layer.in_height * layer.in_width, layer.out_height * layer.out_width
    most = layer.images * max(pixels * layer.inputs, after * layer.outputs)
    return -(-most // FLOATS) * FLOATS


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, program: Program, x: Tensor, factor: Tensor | None, *learned: Tensor) -> Tensor:
        x, out, kept = x.contiguous(), x.new_empty(program.out_shape), x.new_empty(program.kept)
        _set(program, learned, factor, x, out, kept)
        _library().nextify_layers(program.layers, len(program.layers))
        ctx.program, ctx.factor = program, factor
        ctx.save_for_backward(x, out, kept, *learned)
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        program: Program = ctx.program
        x, out, kept, *learned = ctx.saved_tensors
        grad, x_grad, found = grad.contiguous(), torch.empty_like(x), [torch.empty_like(p) for p in learned]
        passing = scratch_address("blocks", 4 * (program.passing + FLOATS))
        memory = _set(program, learned, ctx.factor, x, out, kept)
        program.place(program.backward_places, [*memory, passing + -passing % 64, grad.data_ptr(), x_grad.data_ptr()])
        for (layer, field, _, _), of in zip(program.learned, found, strict=True):
            setattr(program.layers[layer], f"{field}_grad", of.data_ptr())
        _library().nextify_layers_backward(program.layers, len(program.layers))
        return None, x_grad, None, *found


def _set(
    program: Program, learned: Sequence[Tensor], factor: Tensor | None, x: Tensor, out: Tensor, kept: Tensor
) -> list[int]:
    """Write a call's addresses into the program; returns those of its first memories."""
    memory = [x.data_ptr(), out.data_ptr(), kept.data_ptr()]
    program.place(program.forward_places, memory)
    for (layer, field, _, _), parameter in zip(program.learned, learned, strict=True):
        setattr(program.layers[layer], field, parameter.data_ptr())
    for layer, field, module, name in program.buffers:
        setattr(program.layers[layer], field, module._buffers[name].data_ptr())  # type: ignore[union-attr]
    program.layers[program.join].factor = 0 if factor is None else factor.data_ptr()
    return memory


def run(x: Tensor, block: Block, parts: Parts, factor: Tensor | None) -> Tensor:
    """``after(shortcut(x) + factor * layer_scale * branch(x))`` of ``x (N, H, W, C)``, in training.

    Args:
        factor: by image, as stochastic depth draws it; None keeps all.
    """
    program = program_of(block, parts, x.shape)
    learned = [_in_order(module._parameters[name]) for _, _, module, name in program.learned]  # type: ignore[arg-type]
    y: Tensor = _Block.apply(program, x, factor, *learned)
    return y


def _in_order(parameter: Tensor) -> Tensor:
    """As the kernel reads it: a convolution's channels last."""
    order = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
    return parameter if parameter.is_contiguous(memory_format=order) else parameter.contiguous(memory_format=order)
