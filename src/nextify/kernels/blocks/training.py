"""A whole block of a small network in training: one call into ``blocks_cpu.cpp`` forward, and one backward.

In networks of a few thousand pixels per batch, torch's layers spend as much time on calls, allocation and elementwise
passes as on products. Here a block's layers run one after the other in memory that stays in the cache. Of several
threads, each takes some of the images through all layers. Results differ from the layers' by rounding only.
"""

import ctypes
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nextify.kernels.gelu.cpu import FLAGS
from nextify.kernels.operators import check_numbers, compiled, failed
from nextify.kernels.pixelwise.products import scratch_address
from nextify.networks.layers import BatchNorm, LayerNorm, Pointwise, Pool, SpatialConv
from nextify.networks.network import Block

INPUT, OUT, KEPT, PASSING, OUT_GRAD, INPUT_GRAD = range(6)
"""The memories of a Program."""
KINDS = CONV, DEPTHWISE, BATCH_NORM, LAYER_NORM, RELU, GELU, JOIN, SPLIT, PATCHES, POOL = range(10)
LEAST_CHANNELS = 16
"""The fewest channels of a depthwise convolution: the widest vector's, whatever the processor."""
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
        *((name, ctypes.c_int64) for name in (*_SIZES, "padding", "relu")),
        *((name, ctypes.c_void_p) for name in _ADDRESSES),
        *((name, ctypes.c_double) for name in ("eps", "momentum")),
    )


def _check(library: ctypes.CDLL) -> None:
    """Raise RuntimeError where a dense convolution of ragged channels, or its gradients, are not NumPy's."""
    for function in (library.nextify_layers, library.nextify_layers_backward):
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64], ctypes.c_int
    random = np.random.default_rng(0)
    n, h, w, c, out, k = 3, 5, 4, 21, 70, 3
    x, weight = random.standard_normal((n, h, w, c), np.float32), random.standard_normal((out, k, k, c), np.float32)
    bias, grad = random.standard_normal(out, np.float32), random.standard_normal((n, h, w, out), np.float32)
    y, found = np.empty_like(grad), [np.empty_like(a) for a in (x, weight, bias)]
    index = pixels_under_taps(n, h, w, k, 1, 1)
    layer = Layer(CONV, n, h, w, c, h, w, out, k, 1, 1)
    arrays = {"x": x, "weight": weight, "bias": bias, "y": y, "index": index, "y_grad": grad}
    for name, array in {**arrays, **dict(zip(("x_grad", "weight_grad", "bias_grad"), found, strict=True))}.items():
        setattr(layer, name, array.ctypes.data)
    call = ctypes.byref(layer), 1, 1
    code = library.nextify_layers(*call) or library.nextify_layers_backward(*call)
    views = [np.lib.stride_tricks.sliding_window_view(np.pad(a, ((0, 0), (1, 1), (1, 1), (0, 0))), (k, k), axis=(1, 2))
             for a in (x, grad)]  # (N, H, W, C, K, K)  # fmt: skip
    expected = (
        np.einsum("nhwckl,oklc->nhwo", views[0], weight) + bias,
        np.einsum("nhwokl,oklc->nhwc", views[1], weight[:, ::-1, ::-1]),
        np.einsum("nhwckl,nhwo->oklc", views[0], grad),
        grad.sum((0, 1, 2)),
    )
    check_numbers(list(zip((y, *found), expected, strict=True)), 1e-4, 1e-3, code)


_library, ready = compiled("blocks", Path(__file__).with_name("blocks_cpu.cpp"), _check, FLAGS)


def pixels_under_taps(images: int, height: int, width: int, kernel: int, stride: int, padding: int) -> Any:
    """int32 ``(taps, images * H' * W')``: the pixel under each tap of a convolution, -1 outside the image."""
    taps = np.arange(kernel)[:, None] - padding
    at_row, at_column = (
        taps + stride * np.arange((side + 2 * padding - kernel) // stride + 1) for side in (height, width)
    )  # (K, H'), (K, W')
    row, column = at_row[:, None, None, :, None], at_column[None, :, None, None, :]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixels = np.arange(images)[:, None, None] * height * width + row * width + column
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
        if module.weight.shape[2:] != 2 * module.kernel_size[:1]:  # replaced by one of another size
            return None
        if module.groups == 1:
            return CONV
        same = module.padding[0] == module.kernel_size[0] // 2 and module.kernel_size[0] % 2
        return DEPTHWISE if module.depthwise and same and module.in_channels >= LEAST_CHANNELS else None
    if plain is Pool:
        return POOL
    if plain is BatchNorm:
        affine = module.affine and module.track_running_stats and module.momentum is not None and module.training
        return BATCH_NORM if affine else None
    if plain is LayerNorm:
        return LAYER_NORM if module.elementwise_affine and module.bias is not None else None
    if plain is nn.GELU:
        return GELU if module.approximate == "none" else None
    return RELU if plain is nn.ReLU else None


def window_of(module: Any, plain: type[nn.Module]) -> tuple[int, int, int]:
    """Kernel, stride and padding."""
    if plain is Pointwise:
        return 1, module.stride, 0
    if plain is SpatialConv:
        return module.kernel_size[0], module.stride[0], module.padding[0]
    return (module.kernel_size, module.stride, module.padding) if plain is Pool else (1, 1, 0)


def takes(parts: "Parts") -> bool:
    """Whether every layer is one that the kernel computes."""
    return len(parts.branch) > 0 and all(kind_of(*layer) is not None for chain in parts for layer in chain)


class Parts(NamedTuple):
    """A block's layers: its shortcut's, its branch's, and those after the sum."""

    shortcut: Sequence[Described]
    branch: Sequence[Described]
    after: Sequence[Described]

    @property
    def modules(self) -> list[nn.Module]:
        return [layer.module for chain in self for layer in chain]


class Program:
    """Layers for inputs of one shape, and where in memory each finds and leaves what it works on.

    Memory is the first input and the last output, their gradients, ``kept`` floats that live until the backward pass,
    and ``passing`` floats that live as long as it lasts.
    """

    def __init__(self, parts: Parts, shape: torch.Size, block: Block | None) -> None:
        """``block``: whose layers these are; None where they are a chain, in ``parts.branch`` alone."""
        self.key = key_of(parts, shape, block)
        self.kept = self.passing = 0
        self.forward_places: list[tuple[int, str, int, int]] = []  # layer, field, memory, offset in bytes
        self.backward_places: list[tuple[int, str, int, int]] = []
        # Layer, field, and the parameter's module and name; None is the block itself, which owns this program.
        self.learned: list[tuple[int, str, nn.Module | None, str]] = []
        self.buffers: list[tuple[int, str, nn.Module, str]] = []
        self.tables: list[Any] = []
        self.made: list[Layer] = []
        self.join: int | None = None
        if block is None:
            self._chain(parts.branch, shape, (INPUT, 0))
            self._back(0, len(self.made), (OUT_GRAD, 0))
            self.backward_places.append((0, "x_grad", INPUT_GRAD, 0))
        else:
            self._block(parts, shape, block)
        self.out_shape = torch.Size((shape[0], *(getattr(self.made[-1], f"out_{side}") for side in ("height", "width")),
                                     self.made[-1].outputs))  # fmt: skip
        self.forward_places.append((len(self.made) - 1, "y", OUT, 0))
        self.layers = (Layer * len(self.made))(*self.made)

    def _block(self, parts: Parts, shape: torch.Size, block: Block) -> None:
        self._add(SPLIT, shape, shape)
        other, other_size = self._chain(parts.shortcut, shape, (INPUT, 0))
        branch = len(self.made)
        at, size = self._chain(parts.branch, shape, (INPUT, 0))
        self.join = join = self._add(JOIN, size, size)
        self.forward_places += [(join, "x", *at), (join, "other", *other)]
        if other_size != size or (block.layer_scale is not None and block.layer_scale.shape != size[-1:]):
            raise ValueError(f"the shortcut or layer scale does not fit the branch's {tuple(size)}")
        if block.layer_scale is not None:
            self.learned.append((join, "weight", None, "layer_scale"))
        self._chain(parts.after, size, self._leaves(size))
        after = self._back(join + 1, len(self.made), (OUT_GRAD, 0))
        sums, shares = ((PASSING, self._pass(size.numel())) for _ in range(2))
        self.backward_places += [(join, "y_grad", *after), (join, "x_grad", *sums), (join, "other_grad", *shares)]
        of_branch, of_shortcut = self._back(branch, join, sums), self._back(1, branch, shares)
        self.backward_places += [(0, "y_grad", *of_branch), (0, "other", *of_shortcut), (0, "x_grad", INPUT_GRAD, 0)]

    def _chain(
        self, chain: Sequence[Described], size: torch.Size, at: tuple[int, int]
    ) -> tuple[tuple[int, int], torch.Size]:
        """Append a chain's layers, whose input is at ``at``; return where its output is, and of what size."""
        for module, plain in chain:
            kind = kind_of(module, plain)
            assert kind is not None
            if kind == RELU and at[0] == KEPT and self.made[-1].kind in (BATCH_NORM, JOIN):
                self.made[-1].relu = 1
                continue
            kernel, stride, padding = window_of(module, plain)
            before, channels = size, module.weight.shape[0] if kind in (CONV, DEPTHWISE) else size[-1]
            size = torch.Size((size[0], *((s + 2 * padding - kernel) // stride + 1 for s in size[1:3]), channels))
            if min(size[1:3]) < 1:
                raise ValueError(f"a window of {kernel}x{kernel} pixels does not fit an image of {tuple(before[1:3])}")
            _check_sizes(module, kind, before, size)
            window: dict[str, int] = {"kernel": kernel, "stride": stride, "padding": padding}
            if kind == CONV and kernel > 1 and before[-1] < LEAST_CHANNELS:
                patches = torch.Size((*size[:3], kernel**2 * before[-1]))
                self.forward_places.append((self._add(PATCHES, before, patches, **window), "x", *at))
                at, before, window = self._leaves(patches), patches, {}
            number = self._add(kind, before, size, **window)
            self.forward_places.append((number, "x", *at))
            at = self._leaves(size)
            names = [name for name in ("weight", "bias") if module._parameters.get(name) is not None]
            self.learned += [(number, name, module, name) for name in names]
            if kind in (BATCH_NORM, LAYER_NORM):
                self.made[-1].eps, self.made[-1].momentum = module.eps, getattr(module, "momentum", 0.0)
                statistics = self._keep(2 * max(size[-1], size[:3].numel()))
                self.forward_places.append((number, "statistics", KEPT, statistics))
            if kind == BATCH_NORM:
                self.buffers += [(number, field, module, name) for field, name in BUFFERS]
        return at, size

    def _add(
        self, kind: int, before: torch.Size, after: torch.Size, kernel: int = 1, stride: int = 1, padding: int = 0
    ) -> int:
        """Append a layer; returns its number."""
        self.made.append(Layer(kind, *before, *after[1:], kernel, stride, padding))
        if kind in (CONV, PATCHES, POOL) and (kernel > 1 or stride > 1):
            images, height, width, _ = before
            self.tables.append(pixels_under_taps(images, height, width, kernel, stride, padding))
            self.made[-1].index = self.tables[-1].ctypes.data
        return len(self.made) - 1

    def _leaves(self, size: torch.Size) -> tuple[int, int]:
        """A place for the last layer's output."""
        self.forward_places.append((len(self.made) - 1, "y", KEPT, at := self._keep(size.numel())))
        return KEPT, at

    def _keep(self, floats: int) -> int:
        at, self.kept = self.kept, self.kept + -(-floats // FLOATS) * FLOATS
        return 4 * at

    def _pass(self, floats: int) -> int:
        at, self.passing = self.passing, self.passing + -(-floats // FLOATS) * FLOATS
        return 4 * at

    def _back(self, first: int, end: int, at: tuple[int, int]) -> tuple[int, int]:
        """Give the layers ``first`` to ``end - 1`` places for gradients, the last one's being at ``at``; return where
        the first one leaves its own. Two places take turns; layers that go pixel by pixel need one."""
        sizes = [_floats(layer) for layer in self.made[first:end]]
        places = [(PASSING, self._pass(max(sizes, default=0))) for _ in range(2)]
        for number in reversed(range(first, end)):
            self.backward_places.append((number, "y_grad", *at))
            if at[0] == OUT_GRAD or self.made[number].kind in (CONV, DEPTHWISE, PATCHES, POOL):
                at = places[at == places[0]]
            self.backward_places.append((number, "x_grad", *at))
        return at

    @property
    def needs_input_grad(self) -> bool:
        """Whether the first layer writes its input's gradient even where nobody asks for it."""
        return self.made[0].kind not in (CONV, PATCHES, SPLIT)


def tensors_of(module: nn.Module) -> list[Tensor | None]:
    """A module's own parameters and running statistics."""
    return [*module._parameters.values(), *module._buffers.values()]


def key_of(parts: Parts, shape: torch.Size, block: Block | None) -> tuple[object, ...]:
    """What a program is made from: the input's shape, the modules, their tensors' shapes, and norms' constants."""
    modules = parts.modules
    shapes = [None if t is None else t.shape for module in modules for t in tensors_of(module)]
    constants = [(module.__dict__.get("eps"), module.__dict__.get("momentum")) for module in modules]
    scale = None if block is None or block.layer_scale is None else block.layer_scale.shape
    return shape, modules, shapes, constants, scale


_programs: weakref.WeakKeyDictionary[nn.Module, list[Program]] = weakref.WeakKeyDictionary()


def program_of(owner: nn.Module, parts: Parts, shape: torch.Size) -> Program:
    """The program of a block or chain for inputs of this shape, made when first asked for."""
    block, known = owner if isinstance(owner, Block) else None, _programs.setdefault(owner, [])
    key = key_of(parts, shape, block)
    for program in known:
        if program.key == key:
            return program
    made = Program(parts, shape, block)
    known[:] = [*known[-3:], made]  # a few, as images may change their size
    return made


def _check_sizes(module: Any, kind: int, before: torch.Size, size: torch.Size) -> None:
    """Raise ValueError where the kernel would read memory that is not its own, and where torch's batch norm would."""
    channels = before[-1]
    if kind not in (RELU, GELU, POOL):
        weight, bias = module.weight.shape, module.bias
        window = weight[2:]  # checked by kind_of
        fits = {CONV: weight[1:] == (channels, *window), DEPTHWISE: weight == (channels, 1, *window)}
        if not fits.get(kind, weight == (channels,)) or (bias is not None and bias.shape != size[-1:]):
            raise ValueError(f"a weight of {tuple(weight)} or its bias does not fit {channels} channels")
    if kind == BATCH_NORM and any(module._buffers[name].shape != (channels,) for _, name in BUFFERS[:2]):
        raise ValueError(f"the running statistics do not fit {channels} channels")
    if kind == BATCH_NORM and size[:3].numel() == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(size)}")


def _floats(layer: Layer) -> int:
    """Of a layer's input or output, whichever is larger, in whole lines."""
    pixels, after = layer.in_height * layer.in_width, layer.out_height * layer.out_width
    most: int = layer.images * max(pixels * layer.inputs, after * layer.outputs)
    return -(-most // FLOATS) * FLOATS


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, program: Program, x: Tensor, factor: Tensor | None, *learned: Tensor) -> Tensor:
        x, out, kept = x.contiguous(), x.new_empty(program.out_shape), x.new_empty(program.kept)
        layers, _ = _layers(program, learned, factor, x, out, kept)
        if code := _library().nextify_layers(layers, len(layers), _threads(x)):
            raise failed("blocks", code)
        ctx.program, ctx.factor = program, factor
        ctx.save_for_backward(x, out, kept, *learned)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            x_grad, *found = _Block.gradients(ctx, grad)
        if torch.is_grad_enabled():
            x_grad, *found = _Once.apply(1 + len(found), x_grad, *found, grad, *ctx.saved_tensors)
        return None, x_grad, None, *found

    @staticmethod
    def gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Of the input, None where nobody asks for it, and of what is learned."""
        program: Program = ctx.program
        x, out, kept, *learned = ctx.saved_tensors
        grad, found = grad.contiguous(), [torch.empty_like(p) for p in learned]
        x_grad = torch.empty_like(x) if ctx.needs_input_grad[1] or program.needs_input_grad else None
        passing = scratch_address("blocks", 4 * (program.passing + FLOATS))
        layers, memory = _layers(program, learned, ctx.factor, x, out, kept)
        memory += [passing + -passing % 64, grad.data_ptr(), 0 if x_grad is None else x_grad.data_ptr()]
        _place(layers, program.backward_places, memory)
        for (layer, field, _, _), of in zip(program.learned, found, strict=True):
            setattr(layers[layer], f"{field}_grad", of.data_ptr())
        if code := _library().nextify_layers_backward(layers, len(layers), _threads(x)):
            raise failed("blocks", code)
        return x_grad, *found


class _Once(torch.autograd.Function):
    """Gradients, the first ``count`` tensors, that depend on all others and cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if t is None else t.detach() for t in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError('whole blocks cannot differentiate twice; nextify.kernels.install(model, "off") can')


def _layers(
    program: Program, learned: Sequence[Tensor], factor: Tensor | None, x: Tensor, out: Tensor, kept: Tensor
) -> tuple[Any, list[int]]:
    """The program's layers with one call's addresses, and those of its first memories.

    A copy, as other threads may call the same network while the kernel runs.
    """
    layers = type(program.layers).from_buffer_copy(program.layers)
    memory = [x.data_ptr(), out.data_ptr(), kept.data_ptr()]
    _place(layers, program.forward_places, memory)
    for (layer, field, _, _), parameter in zip(program.learned, learned, strict=True):
        setattr(layers[layer], field, parameter.data_ptr())
    for layer, field, module, name in program.buffers:
        setattr(layers[layer], field, module._buffers[name].data_ptr())  # type: ignore[union-attr]
    if program.join is not None:
        layers[program.join].factor = None if factor is None else factor.data_ptr()
    return layers, memory


def _threads(x: Tensor) -> int:
    return min(torch.get_num_threads(), x.shape[0])


def _place(layers: Any, places: Sequence[tuple[int, str, int, int]], memory: Sequence[int]) -> None:
    for layer, field, which, offset in places:
        setattr(layers[layer], field, memory[which] + offset)


def run(x: Tensor, owner: nn.Module, parts: Parts, factor: Tensor | None = None) -> Tensor:
    """What a chain, or a block, ``after(shortcut(x) + factor * layer_scale * branch(x))``, makes of ``x (N, H, W, C)``.
    ``owner``: the block or chain, of which programs are kept; ``factor``: by image, as stochastic depth draws it; None
    keeps all. Raises ``ValueError`` where weights, image or factor do not fit each other, and ``RuntimeError`` for want
    of memory."""
    if factor is not None and factor.numel() != x.shape[0]:
        raise ValueError(f"paths are dropped for {factor.numel()} images, and the batch has {x.shape[0]}")
    program = program_of(owner, parts, x.shape)
    places = [(module or owner, name) for _, _, module, name in program.learned]
    learned = [_in_order(module._parameters[name]) for module, name in places]  # type: ignore[arg-type]
    y: Tensor = _Block.apply(program, x, factor, *learned)
    return y


def _in_order(parameter: Tensor) -> Tensor:
    """As the kernel reads it: a convolution's channels last."""
    order = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
    return parameter if parameter.is_contiguous(memory_format=order) else parameter.contiguous(memory_format=order)
