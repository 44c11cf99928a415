"""What every command shares: how flags look, how signals and errors end it.

A flag has one dash, as users of PULSE type it (`-input_dir`); the same name with two dashes works
too. Imports nothing heavy, so that `-h` answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import signal
import sys
from pathlib import Path
from typing import NoReturn

from cli.errors import UserError, escaped
from cli.progress import tell

# Exit statuses of every command.
OK, SOME_REFUSED, UNUSABLE = 0, 1, 2


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
        """Two dashes are taken for one; what follows a flag that takes a value is its value, also
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


class Stopped(BaseException):
    """SIGINT or SIGTERM asked for an end."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


def stop_on_signals() -> None:
    """Ctrl-C and SIGTERM raise Stopped where the program stands; a second one ends it at once."""

    def stop(signum, frame):
        end_on_signals()
        raise Stopped(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)


def end_on_signals() -> None:
    """Ctrl-C and SIGTERM end the program at once."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda signum, frame: os._exit(128 + signum))


def run_command(main) -> NoReturn:
    """Exit with what `main()` returns; an UserError or a signal is one line, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name that the terminal cannot encode is no end
            stream.reconfigure(errors="backslashreplace")
    program = Path(sys.argv[0]).name
    try:
        stop_on_signals()
        status = main()
        sys.stdout.flush()
    except UserError as error:
        first, *more = error.lines
        tell(f"{program}: error: {first}", *more, file=sys.stderr)
        status = UNUSABLE
    except Stopped as stopped:
        if os.environ.get("RANK", "0") == "0":  # of several processes the first speaks for all
            print(
                f"\n{program}: stopped; what is finished is kept, the same command goes on from "
                f"there",
                file=sys.stderr,
            )
        status = 128 + stopped.signum
    except BrokenPipeError:  # `run.py | head` closed our output: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = OK
    end_on_signals()  # nobody is left to catch what a handler raises
    sys.exit(status)
