"""Work shared between processes: `torchrun --nproc_per_node=8 run.py …`, one process or many, one
machine or many.

Work is handed out by a counter in the launcher's store, so that a slow process delays nobody.
Without a launcher there is one process.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from threading import Thread

from cli.errors import UserError, is_mistake
from cli.progress import tell
from cli.signals import heed_signals
from safe_files import hold_lock

LOCK = ".pulse.lock"  # in the folder that a run writes into
LAUNCHER = (
    "RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "LOCAL_RANK",
)  # torchrun's variables
JOIN_WITHIN = 1800.0  # seconds that all processes have to start in


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

    def gather(self, report: dict) -> list[dict | None]:
        """The reports of all processes, in the first, None of one that failed; [] in the others."""
        return [report]

    @contextlib.contextmanager
    def missed(self) -> Iterator[None]:
        """A block that ends with a report: where it fails, the first process does not wait."""
        yield


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

    @contextlib.contextmanager
    def missed(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            with contextlib.suppress(Exception):  # the store may have gone first
                self.store.set(f"report/{self.rank}", "null")
            raise

    def gather(self, report: dict) -> list[dict | None]:
        self.store.set(f"report/{self.rank}", json.dumps(report))
        if self.rank > 0:
            return []
        keys = [f"report/{rank}" for rank in range(self.size)]
        wait_for(self.store, keys)
        return [json.loads(self.store.get(key)) for key in keys]


def wait_for(store, keys: list[str], deadline: float = math.inf) -> None:
    """Until all keys are set. The store's own wait would be deaf to signals.

    Raises: TimeoutError at `deadline`, on the monotonic clock.
    """
    while not store.check(keys):
        heed_signals()
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.1)


def meet(store, rank: int, size: int, deadline: float) -> str:
    """A name for this start of the processes: the same in all of them, and never used before.

    A launcher that starts killed processes again keeps its store, and what those left in it,
    counters and reports, is not ours. So the first process calls out a new name, which only the
    living answer, each with a token of its own, and then lists the answers it got.

    Raises: TimeoutError where they have not all answered at `deadline`.
    """
    token = secrets.token_hex(8)
    if rank == 0:
        answers = [f"{token}/{other}" for other in range(1, size)]
        store.set("call", token)
        wait_for(store, answers, deadline)
        store.set(f"{token}/all", json.dumps([store.get(key).decode() for key in answers]))
        return token
    while True:
        wait_for(store, ["call"], deadline)
        name = store.get("call").decode()
        store.set(f"{name}/{rank}", token)
        if store.check([f"{name}/all"]) and token in json.loads(store.get(f"{name}/all")):
            return name
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.1)


def local_rank() -> int:
    """The number of this process on its machine, by which it chooses its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def launched() -> tuple[int, int]:
    """This process's rank and the number of processes, as a launcher says in RANK and WORLD_SIZE;
    (0, 1) where neither is set, or where WORLD_SIZE is 1.

    The one place where that is decided. Raises: UserError where they are incomplete or nonsense: a
    shell or a cluster's job may have left them behind.
    """
    given = {name: os.environ[name] for name in LAUNCHER if name in os.environ}
    rank, size = given.get("RANK"), given.get("WORLD_SIZE")
    if (rank, size) in ((None, None), (None, "1"), ("0", "1")):
        return 0, 1
    numbers = [given.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT")]
    numbers.append(given.get("LOCAL_RANK", "0"))
    whole = all(number is not None and re.fullmatch("[0-9]{1,9}", number) for number in numbers)
    if not (whole and int(rank) < int(size) and given.get("MASTER_ADDR")):
        found = " ".join(f"{name}={given[name]}" for name in given)
        missing = ", ".join(name for name in LAUNCHER[:4] if name not in given)
        raise UserError(
            f"the environment says {found}{f' and lacks {missing}' * bool(missing)}, which is not "
            f"what a launcher sets: start several processes with torchrun, or unset RANK and "
            f"WORLD_SIZE to run one"
        )
    return int(rank), int(size)


def join() -> SingleProcess:
    """This process's place among those that a launcher started, once all of them have.

    Raises: UserError where they do not within JOIN_WITHIN seconds.
    """
    rank, size = launched()
    if size == 1:
        return SingleProcess()
    import torch.distributed

    deadline = time.monotonic() + JOIN_WITHIN
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    others = f"{size - 1} more of {size} processes (this is rank {rank})"
    found: list = []

    def rendezvous() -> None:
        try:
            timeout = timedelta(seconds=JOIN_WITHIN + 60)  # ours comes first: see below
            found.append(next(torch.distributed.rendezvous("env://", timeout=timeout))[0])
        except Exception as error:  # whatever PyTorch makes of an address that nobody answers
            found.append(error)

    # In a thread of its own, which is left behind: PyTorch's wait is deaf to signals. Were it to
    # fail while the program ends, that would end in an abort.
    Thread(target=rendezvous, daemon=True).start()
    say_at = time.monotonic() + 5
    while not found and time.monotonic() < deadline:
        heed_signals()
        if time.monotonic() > say_at:
            limit = f"at most {JOIN_WITHIN / 60:g} minutes"
            tell(f"waiting at {address} for {others}, {limit}; Ctrl-C ends this", file=sys.stderr)
            say_at = math.inf
        time.sleep(0.05)
    try:
        if not found or isinstance(found[0], Exception):
            if found and is_mistake(found[0]):
                raise found[0]
            raise TimeoutError
        store = found[0]
        name = meet(store, rank, size, deadline)
    except TimeoutError:
        raise UserError(
            f"{others} did not come to {address} within {JOIN_WITHIN / 60:g} minutes: start all "
            f"with one launcher, or unset RANK and WORLD_SIZE to run one process"
        ) from None
    return LaunchedProcess(torch.distributed.PrefixStore(name, store), rank, size)


@contextlib.contextmanager
def lock_folder(output_dir: Path) -> Iterator[None]:
    """Keeps the folder for this run while its block runs. Raises: UserError where another run has
    it, or where another user's does not let it.
    """
    other = "wait for its end, or give another -output_dir"
    busy, lock = f"another run is writing into {output_dir}: {other}", output_dir / LOCK
    with contextlib.ExitStack() as stack:
        try:
            # A file system without locks has none to give: writes are atomic all the same.
            stack.enter_context(hold_lock(lock, busy, optional=True))
        except OSError as error:
            raise UserError(
                f"{lock} cannot be opened ({error.strerror}): give another -output_dir, or remove "
                f"it where no run is writing there"
            ) from None
        yield
