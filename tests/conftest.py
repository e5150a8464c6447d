import signal

import pytest
import torch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background, which the commands would inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)
