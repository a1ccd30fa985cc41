"""Checks of shape, range and norm; loops over batches, one exact and one that survives a full memory; a faster GELU."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

Array = TypeVar("Array", torch.Tensor, np.ndarray)
NORM_TOLERANCE = 1e-2  # bfloat16 and float16 leave the norm of a unit row within 4e-3 of 1


def check_shape(x: Array, name: str, shape: str) -> None:
    """Refuse `x` unless its shape fits `shape`.

    Args:
        x: tensor or array.
        name: what the caller calls it, for the message.
        shape: one word per axis: a number is that size, "h" or "dim" any size (the same word twice, the same size).

    Raises:
        TypeError: `x` is neither a tensor nor an array.
        ValueError: another shape.
    """
    if not isinstance(x, (torch.Tensor, np.ndarray)):
        raise TypeError(f"{name} must be a tensor or array of shape ({_commas(shape)}), got {type(x).__name__}")
    axes, sizes = shape.split(), tuple(x.shape)
    named: dict[str, int] = {}
    fits = len(axes) == len(sizes) and all(
        size == (int(axis) if axis.isdigit() else named.setdefault(axis, size))
        for axis, size in zip(axes, sizes, strict=True)
    )
    if not fits:
        raise ValueError(f"{name} must have shape ({_commas(shape)}), got {sizes}")


def _commas(shape: str) -> str:
    axes = shape.split()
    return f"{axes[0]}," if len(axes) == 1 else ", ".join(axes)


def check_range(x: Array, name: str, lo: float, hi: float) -> None:
    """Refuse `x` unless every value lies in [lo, hi]; NaN never does.

    Raises:
        ValueError: says how many values are NaN or outside, and the range that came.
    """
    n_nan = int((x != x).sum())
    n_outside = int(((x < lo) | (x > hi)).sum())
    if n_nan:
        raise ValueError(f"{name} must be numbers in [{lo:g}, {hi:g}], got {n_nan} NaN of {_size(x)} values")
    if n_outside:
        raise ValueError(
            f"{name} must lie in [{lo:g}, {hi:g}], got {n_outside} of {_size(x)} values outside, "
            f"from {float(x.min()):g} to {float(x.max()):g}; rescale or clip them first"
        )


def check_unit(x: torch.Tensor, name: str, shape: str = "n dim", *, finite: bool = True) -> None:
    """Refuse `x` unless it has this shape (see `check_shape`) and its rows are finite and of L2 norm 1.

    Args:
        x: rows along the last axis.
        name: what the caller calls it, for the message.
        shape: as for `check_shape`.
        finite: False lets rows with NaN or infinite values pass, where they are dealt with later.

    Raises:
        TypeError: `x` is no tensor.
        ValueError: another shape, or says how many rows are not finite, or of which norms they are.
    """
    check_shape(x, name, shape)
    norms = torch.linalg.vector_norm(x.detach().float(), dim=-1)
    n_bad = int((~norms.isfinite()).sum())
    if n_bad and finite:
        raise ValueError(f"{name} must be finite, got NaN or infinite values in {n_bad} of {norms.numel()} rows")
    known = norms[norms.isfinite()]
    if n_off := int(((known - 1).abs() > NORM_TOLERANCE).sum()):
        raise ValueError(
            f"{name} must have rows of L2 norm 1, got {n_off} of {norms.numel()} others, norms from "
            f"{float(known.min()):g} to {float(known.max()):g}; normalise them: F.normalize(x, dim=-1)"
        )


def _size(x: Array) -> int:
    return x.numel() if isinstance(x, torch.Tensor) else x.size


def fuse_gelu(model: torch.nn.Module) -> None:
    """Put torch's tanh GELU where transformers composes it of eight operations, in place: the same and much faster."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child).__name__ == "NewGELUActivation":
                setattr(module, name, torch.nn.GELU(approximate="tanh"))


def map_batches(fn: Callable, x: Array, *, batch_size: int):
    """Apply `fn` to consecutive slices of `x` and concatenate what comes back.

    When memory runs out the slice is halved, with one warning, and the smaller size is kept for the rest. `fn` is then
    called a second time on the same rows, so it should not draw random numbers of its own.

    Args:
        fn: (m, ...) -> tensor, array or list with m rows, for every m from 1 to batch_size.
        x: (n, ...) tensor or array. An empty one is passed to `fn` once.
        batch_size: at least 1; the last slice may be shorter.

    Returns:
        The rows of all slices in order, of the type that `fn` returns.

    Raises:
        ValueError: batch_size < 1, or `fn` returned another number of rows than it was given.
        MemoryError: memory runs out even for a single row.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    pieces, start, warned = [], 0, False
    while start < len(x) or not pieces:
        piece = x[start : start + batch_size]
        result = _try(fn, piece)
        if result is None:
            batch_size, warned = _halve(len(piece), warned), True
            continue
        if len(result) != len(piece):
            raise ValueError(f"fn must return one row per row of its input, got {len(result)} for {len(piece)}")
        pieces.append(result)
        start += len(piece)
    return _concatenate(pieces)


def map_alike(fn: Callable, pieces: Sequence[torch.Tensor], *, rows: int, aside: bool = True) -> list:
    """Apply `fn` to each piece such that no bit of a result row depends on the company its input row came in.

    On a CPU a product of matrices rounds otherwise in a batch of another size, and with several threads otherwise at
    another place in the batch. So each piece is filled up to `rows` rows with copies of its last one and runs on one
    thread; where no gradient is wanted, several pieces run side by side on as many threads as torch has. (A thread
    that uses torch for the first time meanwhile starts with one of torch's threads.)

    Args:
        fn: (rows, ...) -> tensor or list of as many rows, which do not mix. It may run in another thread.
        pieces: on the CPU, each of at most `rows` rows (or more, where `fn` is known not to mind). The rest of a
            piece's shape, such as a length, must follow from each of its rows alone.
        rows: always the same for the same `fn`.
        aside: False for an `fn` that draws random numbers, and must be called in order.

    Returns:
        What `fn` gives for each piece, without the filling.
    """

    def alone(piece: torch.Tensor) -> torch.Tensor:
        missing = max(0, rows - len(piece)) if len(piece) else 0
        with one_thread():
            return fn(torch.cat((piece, piece[-1:].repeat_interleave(missing, dim=0))))[: len(piece)]

    n_threads = min(torch.get_num_threads(), len(pieces))
    if n_threads < 2 or not aside or torch.is_grad_enabled():
        return [alone(piece) for piece in pieces]
    inference = torch.is_inference_mode_enabled()

    def elsewhere(piece: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(inference), torch.no_grad():
            return alone(piece)

    with one_thread(), ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(elsewhere, pieces))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's CPU operations of this Python thread on one thread, for the length of the block."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _try(fn: Callable, piece: Array):
    """`fn(piece)`, or None when memory ran out. Returning drops the traceback, and with it the failed activations."""
    try:
        result = fn(piece)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if len(piece) <= 1:
            raise MemoryError(
                "out of memory with a batch of 1; use a smaller model or image size, or a device with more memory"
            ) from error
        return None
    if result is None:
        raise ValueError("fn must return one row per row of its input, got None")
    return result


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether `error` means that memory ran out, on a GPU, in NumPy or in torch's CPU allocator."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # torch's CPU allocator, and cuBLAS when its workspace does not fit, raise a plain RuntimeError
    signs = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def _halve(size: int, warned: bool) -> int:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if not warned:
        warnings.warn(
            f"out of memory with a batch of {size}: going on with smaller batches; "
            f"pass batch_size={size // 2} or less to avoid the retries",
            stacklevel=3,
        )
    return size // 2


def _concatenate(pieces: list):
    if isinstance(pieces[0], torch.Tensor):
        return torch.cat(pieces)
    if isinstance(pieces[0], np.ndarray):
        return np.concatenate(pieces)
    return [row for piece in pieces for row in piece]
