"""Tensors in a few words, for what a person sees at a prompt."""

from collections.abc import Sequence

from torch import Tensor


def shape_of(tensor: Tensor) -> str:
    """(8, 16)."""
    return str(tuple(tensor.shape))


def shapes_of(tensors: Sequence[Tensor]) -> str:
    """The shapes of several, equal neighbours counted: (8, 16) x 3, (8, 4)."""
    runs: list[tuple[str, int]] = []
    for tensor in tensors:
        shape = shape_of(tensor)
        count = runs.pop()[1] if runs and runs[-1][0] == shape else 0
        runs.append((shape, count + 1))
    shown = [shape if count == 1 else f"{shape} x {count}" for shape, count in runs]
    return ", ".join(shown[:6]) + (f", and {len(shown) - 6} more" if len(shown) > 6 else "")


def number_of(tensor: Tensor) -> str:
    """A scalar with four digits; of several numbers the smallest and the largest."""
    if tensor.is_meta or not tensor.numel():
        return shape_of(tensor)
    found = tensor.detach()
    if found.numel() == 1:
        return f"{found.item():.4g}"
    return f"{found.min().item():.4g} to {found.max().item():.4g}"


def plural(count: int, noun: str) -> str:
    """1 tick, 2 ticks."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
