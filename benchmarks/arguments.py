"""What the bench's commands are told, checked before anything is measured."""

import torch

from worldsheet.core.errors import InputError


def threads_of(text: str) -> tuple[int, ...]:
    """Numbers of threads, each once.

    Raises:
        InputError: anything else than whole numbers above 0 with commas between.
    """
    counts = text.split(",")
    if not all(count.strip().isdecimal() and int(count) > 0 for count in counts):
        raise InputError(
            f"--threads must be whole numbers above 0, got {text}",
            "numbers with commas between them",
            "use --threads 1,2",
        )
    return tuple(dict.fromkeys(int(count) for count in counts))


def rounds_of(repeats: int) -> int | None:
    """A number of rounds, None for each case's own.

    Raises:
        InputError: a negative number.
    """
    if repeats < 0:
        raise InputError(
            f"--repeats must not be negative, got {repeats}",
            "1 or more, or 0 for each case's own number",
            "leave it out",
        )
    return repeats or None


def device_of(name: str) -> torch.device:
    """A device that can be used and whose memory is counted.

    Raises:
        InputError: any other.
    """
    try:
        device = torch.empty(0, device=name).device
        metered = device.type == "cpu" or hasattr(torch.get_device_module(device), "max_memory_allocated")
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch built without CUDA asserts
        raise _no_device(name, str(error).partition("\n")[0]) from error
    if not metered:
        raise _no_device(name, "torch keeps no account of its peak memory")
    return device


def _no_device(name: str, reason: str) -> InputError:
    return InputError(
        f"device {name!r} cannot be used: {reason}",
        "a device that this torch can use and measure: cpu, cuda, cuda:1",
        "use --device cpu, or install a torch built for the device",
    )
