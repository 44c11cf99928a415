"""What a process shares with all that runs in it, to be compared before and after."""

import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings

import numpy as np
import torch


def state() -> dict:
    """By name; whatever differs between two calls was changed."""
    os.umask(mask := os.umask(0))
    loggers = {"": logging.getLogger(), **logging.Logger.manager.loggerDict}
    return {
        "signal handlers": [signal.getsignal(number) for number in signal.valid_signals()],
        "environment": dict(os.environ),
        "warnings filters": list(warnings.filters),
        "logging": {
            name: (logger.level, logger.propagate, list(logger.handlers))
            for name, logger in loggers.items()
            if isinstance(logger, logging.Logger) and (logger.level or logger.handlers)
        },
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "random state": (
            random.getstate(),
            str(np.random.get_state()),
            torch.get_rng_state().tolist(),
        ),
        "torch": (
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.enabled,
            torch.backends.cudnn.benchmark,
            torch.backends.mkldnn.enabled,
        ),
        "numpy": np.geterr(),
        "folders": (os.getcwd(), list(sys.path), mask),
        "python": (sys.getrecursionlimit(), sys.getswitchinterval(), locale.setlocale(0)),
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook),
        "streams": (sys.stdout, sys.stdout.errors, sys.stderr, sys.stderr.errors),
    }


def changes(before: dict, after: dict) -> dict:
    """What differs: its value before and after."""
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}
