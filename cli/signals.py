"""Ctrl-C and SIGTERM end a command: what they raise, and what becomes of it where it is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

from cli.guest import owns_process

_asked: list[int] = []  # the signals that came since stopping_on_signals was entered


class Stopped(BaseException):
    """SIGINT or SIGTERM asked for an end."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


def heed_signals() -> None:
    """Raise Stopped once more, in the main thread, where a signal has asked for an end and the
    program still goes on.

    What a handler raises is lost where it happens to strike in a finalizer, a callback of a weak
    reference or somebody's bare `except`, and an import has many: one signal in some hundreds that
    come while PyTorch is imported. So everything that goes on for long asks here now and then.
    """
    if _asked and threading.current_thread() is threading.main_thread():
        raise Stopped(_asked[0])


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM raise Stopped where the program stands, and a second one ends it
    at once: by os._exit in a process of its own, which stays so; else, a guest, by what the process
    did before, which is restored. What leaves after a signal, leaves as Stopped.

    Outside the main thread, where signals never arrive, nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    found = {number: signal.getsignal(number) for number in numbers}

    def let_go() -> None:
        for number, handler in found.items():
            if owns_process():  # nobody is left to catch what a handler raises
                handler = end_at_once
            if handler is not None:  # None: not Python's, and cannot be put back
                signal.signal(number, handler)

    def stop(number, frame):
        let_go()
        _asked.append(number)
        raise Stopped(number)

    try:
        for number in numbers:
            signal.signal(number, stop)
        yield
    except Exception as error:  # of an exception in a finalizer imports make a RuntimeError
        if _asked:
            raise Stopped(_asked[0]) from error
        raise
    finally:
        let_go()
        _asked.clear()


def end_at_once(number, frame) -> NoReturn:
    """A signal's handler."""
    os._exit(128 + number)
