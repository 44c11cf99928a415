"""A local page in the browser: drop a photograph, choose a face, watch the search, fetch the
result, the same file that run.py writes.

    python demo/app.py
    python demo/app.py -generators cats.pt dogs.pt -port 8000

It needs gradio: pip install -r requirements-app.txt (`make app` does that, and opens the page).

Only this machine can reach it. With -host 0.0.0.0 everybody can who reaches this machine: they have
no password, no encryption, and together one search at a time, on your processor and your memory.
For more than a few people whom you trust, leave the page as it is and put a web server with TLS and
a password before it.

The page asks nothing of the network, but for the FFHQ generator's download where it is chosen.
Photographs, faces and results are kept until their page is closed, and nowhere after that.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import tempfile
import threading
import webbrowser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cli.command import OK, Parser, run_command  # noqa: E402
from cli.errors import UserError  # noqa: E402
from cli.progress import tell  # noqa: E402
from cli.signals import Stopped  # noqa: E402

ABOUT = {  # resolution, and what is said of it
    "demo": (
        128,
        "128 pixels, in this repository, a few seconds a face. Licence: research, non-commercial.",
    ),
    "ffhq": (
        1024,
        "1024 pixels, NVIDIA's StyleGAN of FFHQ. About 105 MB are downloaded before the first "
        "search, and kept. On a CPU half a minute to minutes a face. Licence: CC BY-NC 4.0.",
    ),
}


def parser() -> Parser:
    flags = Parser(__doc__)
    flags.flag("host", "address to listen at; 0.0.0.0: every network, see above", "127.0.0.1")
    flags.flag("port", "port to listen at; 0: any that is free", 7860, type=int)
    flags.flag(
        "generators",
        "weight files to offer beside demo and ffhq",
        [],
        shown="none",
        nargs="+",
        type=Path,
    )
    flags.flag("device", "auto, cuda, mps or cpu", "auto")
    flags.flag("cache_dir", "where weights and prior fits are kept", Path("cache"), type=Path)
    flags.flag("open", "open the page in a browser, where there is a screen", action="store_true")
    return flags


def listening(host: str, port: int) -> socket.socket:
    """Raises: UserError where that address cannot be had."""
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        number = getattr(error, "errno", None)
        if isinstance(error, OverflowError) or number in (errno.EADDRINUSE, errno.EACCES):
            raise UserError(
                f"-host {host} -port {port} cannot be listened at ({reason}): give another port"
            ) from None
        raise UserError(
            f"-host {host} is no address of this machine ({reason}): give another host, such as "
            f"127.0.0.1"
        ) from None
    return listener


def offered(files: list[Path], cache_dir: Path) -> dict[str, tuple[int, str]]:
    """The generators of the page. Raises: UserError for a file that is none."""
    from generators.load import load_generator

    found = dict(ABOUT)
    for file in files:
        generator = load_generator(file, cache_dir)
        licence = generator.about.get("licence", "not said in the file")
        found[str(file)] = (
            generator.resolution,
            f"{generator.resolution} pixels, from a file of whoever runs this page. "
            f"Licence: {licence}",
        )
    return found


def has_screen() -> bool:
    """Whether a browser would have a window of its own, and not take the terminal."""
    return (
        os.name == "nt"
        or sys.platform == "darwin"
        or bool({"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ))
    )


def main() -> int:
    args, status = parser().parse_args(), OK
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_ANALYTICS_MAX_EVENTS": "1",  # kept for gradio's own statistics, which are closed
        "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9),  # events between two of their summaries
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    with (
        listening(args.host, args.port) as listener,
        tempfile.TemporaryDirectory(prefix="pulse_page_") as folder,
    ):
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder, "gradio"))
        try:
            import gradio  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"the page needs gradio, which cannot be imported ({error}): "
                f"`pip install -r requirements-app.txt` installs it"
            ) from None
        from demo.web.server import serve
        from fast.device import choose_device

        choose_device(args.device)
        generators = offered(args.generators, args.cache_dir)
        host = f"[{args.host}]" if ":" in args.host else args.host
        address = f"http://{host}:{listener.getsockname()[1]}/"

        def ready() -> None:
            tell(f"The page is at {address} (Ctrl-C ends it)")
            if args.open and has_screen():
                threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()

        try:
            serve(listener, Path(folder), generators, args.device, args.cache_dir, ready)
        except Stopped as stopped:
            status = 128 + stopped.signum
    if status:  # a search, a download or a photograph may be under way in a thread: not waited for
        os._exit(status)
    return OK


if __name__ == "__main__":
    run_command(main)
