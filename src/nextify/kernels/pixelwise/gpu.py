"""What a ConvNeXt block does to each pixel by itself, on a GPU: the matrix products are torch's, and Triton kernels do
what stands between them in one pass through memory each. torch's layers, under autocast, cast the norm's input to
float32, write its result in float32 and cast that for the product, and need a pass for the gradient of each bias and of
layer scale.

The backward pass is left the norm's input and the hidden activations before GELU; the normed input and the activations
after GELU are recomputed where their inputs are read anyway. Sums over pixels are partial sums added in a fixed order,
so the result is the same from run to run. Import this module only where triton is installed.
"""

# mypy: disable-error-code="import-untyped, import-not-found, untyped-decorator, no-untyped-def"

import torch
import triton
import triton.language as tl
from torch import Tensor

from nextify.kernels.launch import launch
from nextify.kernels.pixelwise.products import Weights

TILE = 2048
"""Elements a program handles at a time."""
PROGRAMS = 1024  # to aim for where programs add up pixels: several per multiprocessor on any current GPU
COLUMNS = 128
"""Columns of a tile where rows may be cut."""


@triton.jit
def _norm_kernel(
    x_pointer, weight_pointer, bias_pointer, out_pointer, rows, columns, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    here = (column < columns)[None, :]
    mask = (row < rows)[:, None] & here
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    x = tl.load(x_pointer + at, mask=mask, other=0.0).to(tl.float32)
    centred = tl.where(here, x - (tl.sum(x, 1) / columns)[:, None], 0.0)
    unit = centred * (1 / tl.sqrt(tl.sum(centred * centred, 1) / columns + eps))[:, None]
    weight = tl.load(weight_pointer + column, mask=column < columns, other=0.0).to(tl.float32)
    bias = tl.load(bias_pointer + column, mask=column < columns, other=0.0).to(tl.float32)
    tl.store(out_pointer + at, unit * weight[None, :] + bias[None, :], mask=mask)


@triton.jit
def _norm_grad_kernel(
    grad_pointer, x_pointer, weight_pointer, bias_pointer, x_grad_pointer, out_pointer, partial_pointer,
    rows, columns, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient with respect to the input, the norm's output again, and partial sums for weight and bias."""
    column = tl.arange(0, BLOCK)
    here = (column < columns)[None, :]
    weight = tl.load(weight_pointer + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    bias = tl.load(bias_pointer + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    of_weight = tl.zeros((ROWS, BLOCK), tl.float32)
    of_bias = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & here
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        x = tl.load(x_pointer + at, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_pointer + at, mask=mask, other=0.0).to(tl.float32)
        centred = tl.where(here, x - (tl.sum(x, 1) / columns)[:, None], 0.0)
        factor = (1 / tl.sqrt(tl.sum(centred * centred, 1) / columns + eps))[:, None]
        unit = centred * factor
        tl.store(out_pointer + at, unit * weight + bias, mask=mask)
        weighted = grad * weight
        mean = (tl.sum(weighted, 1) / columns)[:, None]
        along = (tl.sum(weighted * unit, 1) / columns)[:, None]
        tl.store(x_grad_pointer + at, (weighted - mean - unit * along) * factor, mask=mask)
        of_weight += grad * unit
        of_bias += grad
    to = partial_pointer + tl.program_id(0).to(tl.int64) * 2 * columns + column
    tl.store(to, tl.sum(of_weight, 0), mask=column < columns)
    tl.store(to + columns, tl.sum(of_bias, 0), mask=column < columns)


@triton.jit
def _gelu_grad_kernel(
    before_pointer, grad_pointer, out_pointer, before_grad_pointer, partial_pointer, rows, columns,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """GELU again, the gradient with respect to its input, and partial sums of that for the bias before it."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = (column < columns)[None, :]
    of_bias = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(tl.program_id(1) * ROWS, rows, tl.num_programs(1) * ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & here
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        before = tl.load(before_pointer + at, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_pointer + at, mask=mask, other=0.0).to(tl.float32)
        below = 0.5 * (1 + tl.erf(before * 0.7071067811865476))
        density = 0.3989422804014327 * tl.exp(-0.5 * before * before)
        tl.store(out_pointer + at, before * below, mask=mask)
        before_grad = grad * (below + before * density)
        tl.store(before_grad_pointer + at, before_grad, mask=mask)
        of_bias += before_grad
    to = partial_pointer + tl.program_id(1).to(tl.int64) * columns + column
    tl.store(to, tl.sum(of_bias, 0), mask=column < columns)


@triton.jit
def _cast_sum_kernel(
    x_pointer, out_pointer, partial_pointer, rows, columns,
    CASTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Partial sums over the rows, and all of it in the type of ``out``."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = (column < columns)[None, :]
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(tl.program_id(1) * ROWS, rows, tl.num_programs(1) * ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & here
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        x = tl.load(x_pointer + at, mask=mask, other=0.0)
        if CASTS:
            tl.store(out_pointer + at, x, mask=mask)
        sums += x.to(tl.float32)
    to = partial_pointer + tl.program_id(1).to(tl.int64) * columns + column
    tl.store(to, tl.sum(sums, 0), mask=column < columns)


@triton.jit
def _scaled_sum_kernel(
    x_pointer, shortcut_pointer, scale_pointer, out_pointer, rows, columns,
    ADDS: tl.constexpr, SCALES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    y = tl.load(x_pointer + at, mask=mask, other=0.0).to(tl.float32)
    if SCALES:
        y = y * tl.load(scale_pointer + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    if ADDS:
        y = y + tl.load(shortcut_pointer + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_pointer + at, y, mask=mask)


@triton.jit
def _scale_grads_kernel(
    product_pointer, weight_pointer, scale_pointer, bias_pointer, sum_pointer,
    weight_grad_pointer, scale_grad_pointer, bias_grad_pointer, columns,
    BIASED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """For one output: the gradients of the last layer's weight, of layer scale and of the bias, from the product of the
    incoming gradient with that layer's input."""
    row = tl.program_id(0)
    scale = tl.load(scale_pointer + row).to(tl.float32)
    of_scale = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        product = tl.load(product_pointer + row * columns + column, mask=column < columns, other=0.0).to(tl.float32)
        weight = tl.load(weight_pointer + row * columns + column, mask=column < columns, other=0.0).to(tl.float32)
        of_scale += product * weight
        tl.store(weight_grad_pointer + row * columns + column, product * scale, mask=column < columns)
    total = tl.load(sum_pointer + row)
    scale_grad = tl.sum(of_scale, 0)
    if BIASED:
        scale_grad += total * tl.load(bias_pointer + row).to(tl.float32)
    tl.store(scale_grad_pointer + row, scale_grad)
    tl.store(bias_grad_pointer + row, total * scale)


def _rows_of(columns: int) -> tuple[tuple[int, int], int]:
    """Rows and columns of a tile of whole rows, and its number of warps."""
    block = triton.next_power_of_2(columns)
    return (max(1, TILE // block), block), min(16, max(4, block // 256))


def _grid(rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(Blocks of columns, programs that share the rows of each); rows and columns of a tile. Programs take tiles in
    turn, so that programs running at the same time are near each other in memory."""
    block = min(COLUMNS, triton.next_power_of_2(columns))
    blocks, tile = triton.cdiv(columns, block), (TILE // block, block)
    return (blocks, max(1, min(triton.cdiv(rows, tile[0]), PROGRAMS // blocks))), tile


def normalize(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Layer norm of the rows of ``x``, in ``dtype``."""
    rows, columns = x.shape
    out, (tile, warps) = torch.empty_like(x, dtype=dtype), _rows_of(columns)
    grid = (triton.cdiv(rows, tile[0]),)
    launch(_norm_kernel, grid, x, weight, bias, out, rows, columns, eps, constants=tile, warps=warps)
    return out


def _norm_grad(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias, and the output, in the type of ``grad``."""
    rows, columns = x.shape
    tile, warps = _rows_of(columns)
    programs = min(PROGRAMS, triton.cdiv(rows, tile[0]))
    partial = x.new_empty((programs, 2, columns), dtype=torch.float32)
    x_grad, out = torch.empty_like(x), torch.empty_like(grad)
    tensors = grad, x, weight, bias, x_grad, out, partial
    launch(_norm_grad_kernel, (programs,), *tensors, rows, columns, eps, constants=tile, warps=warps)
    of_weight, of_bias = partial.sum(0)
    return x_grad, of_weight, of_bias, out


def _gelu_grad(before: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """GELU of ``before``, in the memory of ``grad``; the gradient with respect to ``before``, and its sum over rows."""
    rows, columns = before.shape
    grid, tile = _grid(rows, columns)
    before_grad, partial = torch.empty_like(before), before.new_empty((grid[1], columns), dtype=torch.float32)
    launch(_gelu_grad_kernel, grid, before, grad, grad, before_grad, partial, rows, columns, constants=tile)
    return grad, before_grad, partial.sum(0)


def _cast_sum(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``x`` in that type, and the sum over its rows."""
    rows, columns = x.shape
    grid, tile = _grid(rows, columns)
    out = x if x.dtype == dtype else torch.empty_like(x, dtype=dtype)
    partial = x.new_empty((grid[1], columns), dtype=torch.float32)
    launch(_cast_sum_kernel, grid, x, out, partial, rows, columns, constants=(out is not x, *tile))
    return out, partial.sum(0)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """A matrix product, in float32 where torch can return it so."""
    if a.dtype == torch.float32 or not a.is_cuda:
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32)


def run(
    x: Tensor, shortcut: Tensor | None, weights: Weights, out: Tensor, *, dtype: torch.dtype, keeps: bool
) -> Tensor:
    """The same as ``products.run``, for all pixels at once. Returns the hidden activations: those before GELU where the
    backward pass ``keeps`` them, otherwise their memory."""
    norm_weight, norm_bias, weight1, bias1, weight2, bias2, scale, eps = weights
    rows, outputs = out.shape
    normed = x.to(dtype) if norm_weight is None else normalize(x, norm_weight, _present(norm_bias), eps, dtype)
    before = _linear(normed, weight1, bias1)
    del normed
    hidden = torch.empty_like(before) if keeps else before
    torch.ops.aten.gelu.out(before, out=hidden)
    y = _linear(hidden, weight2, bias2)
    tile = TILE // COLUMNS, COLUMNS
    grid = triton.cdiv(rows, tile[0]), triton.cdiv(outputs, tile[1])
    tensors = y, y if shortcut is None else shortcut, y if scale is None else scale, out
    flags = shortcut is not None, scale is not None
    launch(_scaled_sum_kernel, grid, *tensors, rows, outputs, constants=(*flags, *tile))
    return before


def _present(bias: Tensor | None) -> Tensor:
    assert bias is not None
    return bias


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def backward(grad: Tensor, x: Tensor, before: Tensor, weights: Weights) -> tuple[Tensor, ...]:
    """Gradients of the input and of all ``Weights``, the latter in float32; for absent ones, any tensor."""
    norm_weight, norm_bias, weight1, _, weight2, bias2, scale, eps = weights
    dtype, (outputs, wide) = before.dtype, weight2.shape
    grad, total = _cast_sum(grad, dtype)
    scaled = weight2 if scale is None else scale[:, None] * weight2
    hidden, before_grad, of_bias1 = _gelu_grad(before, grad @ scaled.to(dtype))
    of_weight2, of_bias2, of_scale = _product(grad.t(), hidden), total, total
    del hidden, grad
    if scale is not None:
        product, of_weight2 = of_weight2, torch.empty_like(of_weight2, dtype=torch.float32)
        of_scale, of_bias2 = torch.empty_like(total), torch.empty_like(total)
        tensors = product, weight2.contiguous(), scale, scale if bias2 is None else bias2, total, of_weight2, of_scale
        launch(_scale_grads_kernel, (outputs,), *tensors, of_bias2, wide, constants=(bias2 is not None, 1024))
    normed_grad = before_grad @ weight1.to(dtype)
    if norm_weight is None:
        x_grad, normed, of_norm = normed_grad.to(x.dtype), x.to(dtype), [total, total]
    else:
        x_grad, *of_norm, normed = _norm_grad(normed_grad, x, norm_weight, _present(norm_bias), eps)
    of_weight1 = _product(before_grad.t(), normed)
    return x_grad, *of_norm, of_weight1.float(), of_bias1, of_weight2.float(), of_bias2, of_scale
