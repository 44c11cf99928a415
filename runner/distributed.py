"""Work shared between processes: `torchrun --nproc_per_node=8 run.py …`, one process or many, one
machine or many.

Work is handed out by a counter in the launcher's store, so that a slow process delays nobody.
Without a launcher there is one process.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

from safe_files import hold_lock

LOCK = ".pulse.lock"  # in the folder that a run writes into
FOREVER = timedelta(days=365)  # a search may take as long as it likes


class SingleProcess:
    """The only process there is."""

    rank, size = 0, 1

    def __init__(self):
        self.claimed = self.finished = 0

    def claim(self) -> int:
        """The number of the next piece of work, from 0; nobody else has it."""
        self.claimed += 1
        return self.claimed - 1

    def finish(self, number: int = 1) -> int:
        """That many more results are done; returns how many all processes have done."""
        self.finished += number
        return self.finished

    def first(self, prepare: Callable[[], int]) -> int:
        """Run `prepare` in the first process before any other goes on; all get what it returns.

        Where it raises, the others exit silently with status 2.
        """
        return prepare()

    def gather(self, report: dict) -> list[dict]:
        """The reports of all processes, in the first; [] in the others."""
        return [report]


class LaunchedProcess(SingleProcess):
    """One of several processes that a launcher started."""

    def __init__(self, store, rank: int, size: int):
        super().__init__()
        self.store, self.rank, self.size = store, rank, size

    def claim(self) -> int:
        return self.store.add("claimed", 1) - 1

    def finish(self, number: int = 1) -> int:
        return self.store.add("finished", number)

    def first(self, prepare: Callable[[], int]) -> int:
        if self.rank > 0:
            wait_for(self.store, ["prepared"])
            value = json.loads(self.store.get("prepared"))
            if value is None:
                raise SystemExit(2)
            return value
        try:
            value = prepare()
        except BaseException:
            self.store.set("prepared", "null")
            raise
        self.store.set("prepared", json.dumps(value))
        return value

    def gather(self, report: dict) -> list[dict]:
        self.store.set(f"report/{self.rank}", json.dumps(report))
        if self.rank > 0:
            return []
        keys = [f"report/{rank}" for rank in range(self.size)]
        wait_for(self.store, keys)
        return [json.loads(self.store.get(key)) for key in keys]


def wait_for(store, keys: list[str]) -> None:
    """Until all keys are set. The store's own wait would be deaf to signals."""
    while not store.check(keys):
        time.sleep(0.1)


def meet(store, rank: int, size: int) -> str:
    """A name for this start of the processes: the same in all of them, and never used before.

    A launcher that starts killed processes again keeps its store, and what those left in it,
    counters and reports, is not ours. So the first process calls out a new name, which only the
    living answer, each with a token of its own, and then lists the answers it got.
    """
    token = secrets.token_hex(8)
    if rank == 0:
        answers = [f"{token}/{other}" for other in range(1, size)]
        store.set("call", token)
        wait_for(store, answers)
        store.set(f"{token}/all", json.dumps([store.get(key).decode() for key in answers]))
        return token
    while True:
        wait_for(store, ["call"])
        name = store.get("call").decode()
        store.set(f"{name}/{rank}", token)
        if store.check([f"{name}/all"]) and token in json.loads(store.get(f"{name}/all")):
            return name
        time.sleep(0.1)


def local_rank() -> int:
    """The number of this process on its machine, by which it chooses its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_first() -> bool:
    """Whether this process speaks for all."""
    return int(os.environ.get("RANK", "0")) == 0


def join() -> SingleProcess:
    """This process's place among those that a launcher started: RANK and WORLD_SIZE say so."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SingleProcess()
    import torch.distributed

    store, rank, size = next(torch.distributed.rendezvous("env://", timeout=FOREVER))
    ours = torch.distributed.PrefixStore(meet(store, rank, size), store)
    return LaunchedProcess(ours, rank, size)


def lock_folder(output_dir: Path) -> AbstractContextManager[None]:
    """Keeps the folder for this run while its block runs. Raises: UserError where another run has
    it.
    """
    busy = (
        f"another run is writing into {output_dir}: wait for its end, or give another -output_dir"
    )
    # A file system without locks has none to give: writes are atomic all the same.
    return hold_lock(output_dir / LOCK, busy, optional=True)
