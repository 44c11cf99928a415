"""A command has a process of its own, or is a guest in one: IPython's %run, a notebook, a debugger,
a test. A guest leaves everything as it was found.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator


def owns_process() -> bool:
    """Whether this command is what the process was started for, and ends with it."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", sys.argv[0])  # of `python -m name`
    stays = sys.flags.interactive or "IPython" in sys.modules
    return not stays and name in sys.orig_argv


@contextlib.contextmanager
def as_found() -> Iterator[None]:
    """On leaving, what the process shares is as it was on entering: the environment, the filters of
    warnings (which threads that change them at once leave changed) and, where PyTorch is imported
    already, its number of threads and its current CUDA device.
    """
    environment = os.environ.copy()
    torch = sys.modules.get("torch")
    threads = torch and torch.get_num_threads()
    device = torch.cuda.current_device() if torch and torch.cuda.is_initialized() else None
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        if threads is not None:
            torch.set_num_threads(threads)
        if device is not None:
            torch.cuda.set_device(device)
