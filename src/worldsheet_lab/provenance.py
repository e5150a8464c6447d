"""Where results come from: the command as it was typed, the machine, the moment."""

import shlex
import sys
from datetime import datetime
from pathlib import Path

import torch

from worldsheet.version import __version__
from worldsheet_lab.machine import this_machine


def provenance(device: str = "cpu") -> dict[str, str]:
    """The members that a run folder keeps of its origin; `command` is empty where the run was not started by one."""
    return {
        "worldsheet": __version__,
        "torch": str(torch.__version__),
        "command": typed_command(),
        "machine": str(this_machine(torch.device(device), (torch.get_num_threads(),))),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def typed_command() -> str:
    """The command line of this process as `worldsheet ...`; empty if it is another program's."""
    program = Path(sys.argv[0])
    ours = program.stem == "worldsheet" or program.parts[-2:] == ("worldsheet", "__main__.py")
    return shlex.join(["worldsheet", *sys.argv[1:]]) if ours else ""
