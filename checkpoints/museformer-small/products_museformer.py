"""Products of one vector per row with a matrix, whose time is that of reading the matrix.

Product          `addmm` with the matrix as [in, out]: any number of rows, any device
StreamedProduct  one row on a CPU: a weighted sum of the matrix's lines, read once and ahead of use
HalfProduct      the same with the matrix and the states in float16
Int8Product      matrices in eight bits, one scale per output, which a CPU reads in a fraction of the time
"""

import contextlib
import math
import mmap

import torch

HUGE_PAGE = 2**21  # bytes


def large_zeros(like: torch.Tensor, shape) -> torch.Tensor:
    """Zeros of the dtype and device of `like`; on Linux in huge pages if they are in main memory and large.

    A step reads tens of megabytes once: with pages of 4 kB a fifth of its time goes into looking them up.
    """
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or size < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return like.new_zeros(shape)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=like.dtype).view(shape)


def weighted_sum(lines: torch.Tensor, order: torch.Tensor, bags: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Per bag the sum of its lines times their weights.

    Args:
        lines: `[n, width]`.
        order: `[m]`, int32, lines of all bags one after the other.
        bags: `[b]`, int32, where in `order` each bag starts.
        weights: m numbers of any shape.

    Returns:
        `[b, width]` of the dtype of `lines`; half precision is added up in single precision.
    """
    return torch.embedding_bag(lines, order, bags, False, 0, False, weights.to(lines.dtype).reshape(-1))[0]


def streams(rows: int, like: torch.Tensor) -> bool:
    """Whether `weighted_sum` is the fastest product: one row on a CPU for which PyTorch has a kernel of its own."""
    one_row = rows == 1 and like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64)
    return one_row and torch.backends.cpu.get_cpu_capability().startswith("AVX")


class Product:
    """States `[B, in]` to `[B, out]`: `x W^T + b` with the matrix stored as `[in, out]`."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        self.weight, self.bias = weight.t().clone(memory_format=torch.contiguous_format), bias.clone()

    def __call__(self, states):
        return torch.addmm(self.bias, states, self.weight)


class StreamedProduct:
    """`Product` of one row: `sum_i x_i W^T[i] + b`, in as many blocks of outputs as there are threads.

    Args:
        weight: `[out, in]`, copied.
        bias: `[out]`, copied.
        dtype: what the matrix is stored in.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype | None = None):
        num_outputs, num_inputs = weight.shape
        blocks = torch.get_num_threads()
        self.blocks = blocks = blocks if num_outputs % (16 * blocks) == 0 else 1
        lines = weight.view(blocks, -1, num_inputs).transpose(1, 2).reshape(blocks * num_inputs, -1)
        self.weight, self.bias = lines.to(dtype or weight.dtype, copy=True), bias.clone()
        self._order = torch.arange(blocks * num_inputs, dtype=torch.int32)
        self._bags = torch.arange(0, blocks * num_inputs, num_inputs, dtype=torch.int32)

    def __call__(self, states):
        product = weighted_sum(self.weight, self._order, self._bags, states.expand(self.blocks, -1))
        return product.view(1, -1) + self.bias


class HalfProduct(StreamedProduct):
    """`StreamedProduct` with the matrix and the states in float16; relative error about 0.04%."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__(weight, bias, torch.float16)


class Int8Product:
    """`Product` with weights rounded to 127 steps per output row and states to bfloat16; relative error about 1%."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        self.weight = (weight / scale[:, None]).round().to(torch.int8)
        self.scale, self.bias = scale.to(torch.bfloat16), bias.clone()

    def __call__(self, states):
        product = torch._weight_int8pack_mm(states.to(torch.bfloat16), self.weight, self.scale)
        return product.to(states.dtype) + self.bias


WEIGHTS = ("exact", "half", "int8")


def product_class(weights: str, rows: int, like: torch.Tensor) -> type:
    """Which product decodes `rows` rows with `weights`, one of `WEIGHTS`; `like` is a matrix of the model."""
    if weights == "int8":
        return Int8Product
    if not streams(rows, like):
        return Product
    return HalfProduct if weights == "half" else StreamedProduct


def pack(products: list) -> None:
    """Put the matrices of `products` one behind the other in one block of memory."""
    block = large_zeros(products[0].weight, (sum(product.weight.numel() for product in products),))
    for product, place in zip(products, block.split([product.weight.numel() for product in products])):
        product.weight = place.view(product.weight.shape).copy_(product.weight)


__all__ = ["WEIGHTS", "large_zeros", "pack", "product_class", "streams", "weighted_sum"]
