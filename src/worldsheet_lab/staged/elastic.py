"""Being one of the processes that `torchrun` has started, perhaps for a second time."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from worldsheet.pipeline.transport.distributed import Meeting, agents_store, agreed


@final
@dataclass(frozen=True)
class Torchrun:
    """What torchrun tells its processes.

    Attributes:
        rank: which one this is.
        size: how many there are.
        attempt: how often its processes have been started again.
        here: whether all of them are on one machine.
        address: where its agent has a store that outlives its processes.
        port: of that store.
        run: what it calls this run.
    """

    rank: int
    size: int
    attempt: int
    here: bool
    address: str
    port: int
    run: str

    @staticmethod
    def around() -> "Torchrun | None":
        """The torchrun that started this process; None if nothing did."""
        told = os.environ
        if "TORCHELASTIC_RUN_ID" not in told:
            return None
        size = int(told["WORLD_SIZE"])
        return Torchrun(
            rank=int(told["RANK"]),
            size=size,
            attempt=int(told["TORCHELASTIC_RESTART_COUNT"]),
            here=int(told["LOCAL_WORLD_SIZE"]) == size,
            address=told["MASTER_ADDR"],
            port=int(told["MASTER_PORT"]),
            run=told["TORCHELASTIC_RUN_ID"],
        )

    def agree(self, make: Callable[[], str], timeout: float) -> str:
        """What the first process makes, told to all, and to those that are started in place of failed ones."""
        store = agents_store(self.address, self.port, f"worldsheet {self.run}", timeout)
        return agreed(store, "folder", make if self.rank == 0 else None)

    def meeting(self, timeout: float) -> Meeting:
        """Where the processes of this attempt find each other."""
        return agents_store(self.address, self.port, f"worldsheet {self.run} attempt {self.attempt}", timeout)
