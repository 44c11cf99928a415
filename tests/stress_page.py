"""Many searches one after another through the page of demo/app.py: time and memory, printed;
figures, not tests.

    python tests/stress_page.py          200 searches of 5 steps, with an upload each (make stress)
    python tests/stress_page.py 600 1    600 of 1 step

What is loaded, compiled and kept on purpose (24 results) has come after WARM searches; what grows
from then on, grows for ever.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import requests
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from open_page import Server, until  # noqa: E402

from demo.web.reading import FACES  # noqa: E402

WARM = 25  # searches


def memory(pid: int) -> float:
    """What a process holds now beside its files, in MB; on Linux."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"RssAnon:\s*(\d+)", status)[1]) / 1e3


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def main(searches: int = 200, steps: int = 5) -> None:
    from gradio_client import Client

    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        before = set(server.temporary.rglob("*"))
        client, started = Client(server.url, verbose=False), time.monotonic()
        used = [memory(server.process.pid)]
        for number in range(1, searches + 1):
            token = requests.post(f"{server.url}photograph?ending=png", picture(number)).text
            client.predict(token, FACES, "demo", api_name="/read")
            said, *_ = client.predict(0, 16, "demo", str(number), 1, steps, api_name="/search")
            assert f"Seed {number} repeats" in said, said
            used.append(memory(server.process.pid))
            if number in (1, 2, 10) or number % 25 == 0:
                files = len(server.uploads())
                print(
                    f"{number} searches: {time.monotonic() - started:.1f} s, "
                    f"{used[-1]:.1f} MB, {files} photograph kept",
                    flush=True,
                )
        if searches > WARM + 1:
            per_search = np.polyfit(range(WARM, searches + 1), used[WARM:], 1)[0]
            print(
                f"memory: {used[0]:.1f} MB at the start, {used[WARM]:.1f} after {WARM} searches, "
                f"then {100 * per_search:+.2f} MB in 100 (least squares), {max(used):.1f} at most"
            )
        client.close()
        until(lambda: not server.uploads(), "the photograph is still there")
        left = {p for p in server.temporary.rglob("*") if p.is_file()} - before
        print(f"the page closed: files left: {sorted(path.name for path in left) or 'none'}")
        started = time.monotonic()
        status = server.end()
        left = [path.name for path in server.temporary.iterdir()]
        print(
            f"SIGTERM: {time.monotonic() - started:.1f} s, status {status}, left: {left or 'none'}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
