"""What every command shares: how flags look, how errors and signals end it.

A flag has one dash, as users of PULSE type it (`-input_dir`); the same name with two dashes works
too. Imports nothing heavy, so that `-h` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from cli.errors import UserError, escaped
from cli.guest import owns_process
from cli.progress import Unprintable, tell
from cli.signals import Stopped, stopping_on_signals

# Exit statuses of every command.
OK, SOME_REFUSED, UNUSABLE = 0, 1, 2
GONE = "the folder in which this was started does not exist any more: change to another one (cd)"


class Parser(argparse.ArgumentParser):
    """A parser whose help is the module docstring; errors are one sentence, exit status 2."""

    def __init__(self, doc: str):
        super().__init__(
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def flag(self, name: str, help: str, default=None, shown=None, **options) -> None:
        """Add `-name`. The help ends with the default, or with `shown` where that is given."""
        shown = default if shown is None else shown
        if shown is not None and shown is not False:  # 0 is a default, too
            help = f"{help} (default: {shown})"
        self.add_argument(f"-{name}", default=default, help=help.replace("%", "%%"), **options)

    def flags_of(self, settings: type) -> None:
        """Add a flag for every field of a dataclass of settings (search_settings.setting)."""
        for each in dataclasses.fields(settings):
            about = each.metadata
            if about["kind"] is bool:
                self.flag(each.name, about["help"], False, action="store_true")
            else:
                kind = {} if about["kind"] is str else {"type": about["kind"]}
                options = {**kind, **about["options"]}
                self.flag(each.name, about["help"], each.default, about["shown"], **options)

    def parse_args(self, args=None, namespace=None):
        """Two dashes are taken for one; what follows a flag that takes one value is that, also
        where it begins with a dash, as in `-eps -1e-3`.
        """
        known = self._option_string_actions
        plain, waiting = [], None
        for arg in sys.argv[1:] if args is None else map(str, args):
            name = arg.split("=")[0].removeprefix("-")
            if name in known:
                arg = arg.removeprefix("-")
            name = arg.split("=")[0]
            if waiting is not None and name not in known:
                plain[-1] = f"{waiting}={arg}"
                waiting = None
                continue
            takes_value = arg in known and known[arg].nargs is None
            waiting = arg if takes_value else None
            plain.append(arg)
        return super().parse_args(plain, namespace)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument -(\w+): ", r"-\1: ", message)
        self.exit(UNUSABLE, f"{self.prog}: error: {escaped(message)} (-h lists every flag)\n")


@contextlib.contextmanager
def usable_streams() -> Iterator[None]:
    """Within, stdout and stderr exist, even where they were closed before the start, and what they
    cannot encode, such as a file name, is escaped.
    """
    ours = owns_process()
    if ours:
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass  # else a file of ours would get the number, and what a library prints
        os.close(number)
    with contextlib.ExitStack() as restore:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:
                restore.callback(setattr, sys, name, None)
                setattr(sys, name, restore.enter_context(open(os.devnull, "w")))
            elif hasattr(stream, "reconfigure"):
                if not ours:
                    restore.callback(stream.reconfigure, errors=stream.errors)
                stream.reconfigure(errors="backslashreplace")
        yield


def run_command(main, resumes: bool = False) -> NoReturn:
    """Exit with what `main()` returns; an UserError or a signal is one line, not a traceback.
    resumes: whether the same command goes on from where a signal has stopped it; with -overwrite it
    begins again.

    In a process that goes on afterwards, as a notebook's does, everything is left as it was found.
    """
    with usable_streams():
        sys.exit(status_of(main, resumes))


def status_of(main, resumes: bool = False) -> int:
    """The exit status of a command, after what there is to say of an error or a signal."""
    program = Path(sys.argv[0]).name
    try:
        with stopping_on_signals():
            status = main()
            tell()  # flushes
            return status
    except UserError as error:
        first, *more = error.lines
        tell(f"{program}: error: {first}", *more, file=sys.stderr)
        return UNUSABLE
    except (Stopped, KeyboardInterrupt) as stopped:  # the latter: the second one, of a guest
        if os.environ.get("RANK", "0") == "0":  # of several processes the first speaks for all
            tell("", file=sys.stderr)
            again = {"-overwrite", "--overwrite"}.intersection(sys.argv)
            onward = "begins again" if again else "goes on from there"
            more = f"; what is finished is kept, the same command {onward}"
            tell(f"{program}: stopped{more if resumes else ''}", file=sys.stderr)
        return 128 + getattr(stopped, "signum", signal.SIGINT)
    except Unprintable as error:
        tell(f"{program}: error: stdout cannot be written ({error})", file=sys.stderr)
        forget_stdout()
        return SOME_REFUSED
    except FileNotFoundError:
        if has_folder():
            raise
        tell(f"{program}: error: {GONE}", file=sys.stderr)
        return UNUSABLE
    except BrokenPipeError:  # `run.py | head` closed our output: not an error of ours
        forget_stdout()
        return OK


def has_folder() -> bool:
    """Whether the folder in which the process runs exists: it may have been removed meanwhile."""
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def forget_stdout() -> None:
    """What is still to be written on it would fail once more when the process ends."""
    if owns_process():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
