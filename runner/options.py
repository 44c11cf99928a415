"""Every flag of run.py that is not a setting of the search: its default, and when to change it.

Imports neither torch nor Pillow, so that `run.py -h` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cli.errors import UserError
from search_settings import COMPILE, PRECISIONS, require_positive, require_seed, setting

MAX_THREADS = 1024  # far more than pay; PyTorch dies of what the system cannot start
ANIMATIONS = ("gif", "webp", "mp4")


@dataclass(frozen=True)
class RunOptions:
    """What one call of run.py is asked to do, beside the Settings of the search."""

    input_dir: Path = setting(Path("input"), "folder of LR pictures, or one picture", kind=Path)
    output_dir: Path = setting(Path("runs"), "folder for the results, made if missing", kind=Path)
    cache_dir: Path = setting(Path("cache"), "where weights and prior fits are kept", kind=Path)
    generator: str | None = setting(
        None,
        "ffhq (1024 pixels, fetched once), demo (no download), another name of docs/generators.md, "
        "an https address or a weight file; with -render that of the first file, unless it was an "
        "address",
        shown="ffhq",
        kind=str,
    )
    label: int | None = setting(
        None, "of a generator of several classes: which one, counted from 0", kind=int
    )
    device: str = setting("auto", "auto, cuda, mps or cpu")
    duplicates: int = setting(1, "results per picture, from seeds seed, seed + 1, …")
    batch_size: int = setting(1, "pictures searched at once; pays on a GPU")
    seed: int | None = setting(None, "where the search starts", shown="drawn and printed", kind=int)
    retries: int = setting(0, "further searches, from other starts, for a picture outside eps")
    threads: int | None = setting(
        None,
        "CPU threads; the same number gives the same bytes",
        shown="1 for a small generator, else PyTorch's",
        kind=int,
    )
    compile: str = setting(
        "auto",
        "auto (on a CPU, where it pays), on or off: code for this machine, made once and kept in "
        "the cache; on CUDA whole steps are recorded and replayed, unless off",
        choices=COMPILE,
    )
    precision: str | None = setting(
        None,
        "of the network: float32, tf32 (on CUDA, and the default there where PyTorch's own "
        "convolutions use it) or bfloat16; latents, statistics, loss and downscaling stay float32",
        shown="float32; on CUDA PyTorch's own",
        kind=str,
        choices=PRECISIONS,
    )
    save_intermediate: bool = setting(
        False,
        "keep the best pair so far after every step, under <output_dir>/<name>/HR and LR",
    )
    sheet: bool = setting(
        False,
        "one picture per input that shows LR, bicubic and all results, under <output_dir>/sheets",
    )
    animation: str | None = setting(
        None,
        "the search as a moving picture, under <output_dir>/animations: gif, webp or mp4 (which "
        "needs imageio-ffmpeg)",
        kind=str,
        choices=ANIMATIONS,
    )
    save_latent: bool = setting(
        False, "<name>.npz beside each result, from which -render makes it again"
    )
    render: list[Path] | None = setting(
        None,
        "search for nothing: draw the pictures of these latent files again",
        kind=Path,
        nargs="+",
        metavar="FILE",
    )
    strict: bool = setting(False, "write nothing where eps is not reached, and exit with 1 then")
    overwrite: bool = setting(False, "make existing results again")
    summary: bool = setting(
        False, "search for nothing: rebuild <output_dir>/results.csv from the records"
    )
    quiet: bool = setting(False, "print errors and the summary only")

    def check(self) -> None:
        """Raises: UserError for the first option that no picture could be searched with."""
        require_positive("batch_size", self.batch_size)
        require_positive("duplicates", self.duplicates)
        if self.retries < 0:
            raise UserError(f"retries must be 0 or more, not {self.retries}")
        if self.threads is not None:
            require_positive("threads", self.threads)
            if self.threads > MAX_THREADS:
                raise UserError(f"threads must be at most {MAX_THREADS}, not {self.threads}")
        if self.label is not None and self.label < 0:
            raise UserError(f"label must be 0 or more, not {self.label}")
        if self.seed is not None:
            require_seed(self.seed)
            require_seed(self.seed + self.duplicates - 1)
        if self.device.split(":")[0] not in ("auto", "cuda", "mps", "cpu"):
            raise UserError(f"device {self.device!r} is unknown: use auto, cuda, mps or cpu")
