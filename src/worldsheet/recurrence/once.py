"""What a relaxation in time cannot be asked: derivatives of its derivatives, and transforms of torch.func."""

import torch

from worldsheet.core.errors import InputError
from worldsheet.core.private_torch import is_transformed


def refuse_transforms(name: str) -> None:
    """Refuse to be called inside of torch.func.

    Raises:
        InputError: a transform is at work.
    """
    if is_transformed():
        raise InputError(
            f"{name} does not support transforms of torch.func: its states are found by iteration or by machine code",
            "calls outside of torch.func.grad, vmap and their kin",
            "call the wrapped module itself inside the transform: recurrent.module",
        )


def refuse_second_derivative() -> None:
    """Refuse to be differentiated twice.

    Raises:
        InputError: the backward pass is itself recorded.
    """
    if torch.is_grad_enabled():
        raise InputError(
            "Recurrent cannot be differentiated twice: its costates come of a reverse scan that autograd does not see",
            "first derivatives: backward() without create_graph=True",
            "call the wrapped module itself where second derivatives are needed: recurrent.module",
        )
