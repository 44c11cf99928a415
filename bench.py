"""How fast a search is on this machine: one table, all of it measured in one run.

examples:
  python bench.py
      at 1024 pixels, on the device that run.py would use
  python bench.py -resolution 256 -parts steps
      smaller, and only the time of a step
  python bench.py -json bench.json
      the figures for a program as well
  python bench.py -parts search -repeats 3
      a face by the published search and by the quick one, at 64, 128 and 1024 pixels, and the
      quick one's fit; ten minutes and more on a CPU, and -steps 20 is enough there
  python bench.py -parts faces -faces photographs
      how well searches end on the plain and on the fast forms of demo64, which need not
      be alone on the machine

Let nothing else run meanwhile. Each row of the table is a process of its own, so that peak memory
is its own, and times the search's real step: forward, loss, backward, optimiser, projection. The
floor is the arithmetic that a step cannot do without, over the rate at which this machine computes
in that precision, measured in the same run: that of square matrices or of one large convolution,
whichever is higher.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import stylegan3_steps
from benchmarks.hardware import machine_rates, processor
from benchmarks.search_quality import compare
from benchmarks.search_times import print_searches, time_searches
from benchmarks.step_profile import profile
from benchmarks.step_time import PLAIN_LIBRARY, STEPS, Row, random_generator, random_stylegan2
from cli.command import OK, Parser, run_command
from cli.errors import UserError, escaped
from cli.signals import heed_signals
from fast.device import choose_device
from fast.precision import has_bfloat16
from generators.load import DEMO, DEMO64
from imaging.pictures import list_pictures, pictures_in, read_picture, to_tensor
from PULSE import PULSE
from safe_files import atomic_write, require_file_writable
from search_settings import PRECISIONS, require_positive

ROOT = Path(__file__).resolve().parent
PARTS = ("steps", "stylegan2", "stylegan3", "start", "runs", "search", "faces", "profile")
# measured only where they are named
ON_REQUEST = ("stylegan2", "stylegan3", "search", "faces", "profile")


# ------------------------------------------------------------ the parts of the table


def in_process(*arguments: str, timeout: float = 3600) -> tuple[float, str]:
    """Seconds and output of a Python command of its own. Raises: RuntimeError with what it said."""
    heed_signals()
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode not in (0, 1):
        raise RuntimeError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    return time.perf_counter() - start, done.stdout


def rows_for(device: torch.device, batches: list[int]) -> list[Row]:
    """What is measured on a device; the first is what the others are held against."""
    if device.type == "cpu":
        precisions = ["float32"] + ["bfloat16"] * has_bfloat16()
    elif device.type == "cuda":
        precisions = list(PRECISIONS)
    else:
        precisions = ["float32"]
    fast = ["eager", "compiled"] if device.type != "mps" else ["eager"]
    rows = [Row(PLAIN_LIBRARY, "float32", 1), Row("plain", "float32", 1)]
    return rows + [
        Row(formulation, precision, batch)
        for batch in batches
        for precision in precisions
        for formulation in fast
    ]


def whole(figure: float | None) -> str:
    """A cell of a table: blank where the figure is not known."""
    return "" if figure is None else f"{figure:.0f}"


def measure_steps(
    args, device: torch.device, network: torch.nn.Module, file: Path, cache_dir: Path
) -> list[dict]:
    """The table of steps on `network`, StyleGAN or StyleGAN2, which is in `file`, row by row."""
    needed = 2 * network.multiply_adds  # forward, and backward to the inputs
    rows_wanted = rows_for(device, args.batches)
    if network.family == "stylegan1":
        unfolded = 2 * network.count_multiply_adds(folded=False)
        beside = f" ({unfolded / 1e9:.1f} G with ×2 as nearest neighbour)"
    else:
        rows_wanted, beside = rows_wanted[1:], ""  # it has no instance norm
    print(f"{network.family}, multiply-adds of a step: {needed / 1e9:.1f} G{beside}")
    rates: dict[str, dict[str, float]] = {}
    rows, first = [], None
    print(
        f"{'formulation':26}{'precision':10}{'batch':>5}{'ms/step':>9}{'range':>13}{'images/min':>11}"
        f"{'peak MB':>9}{'x faster':>9}{'x floor':>8}",
        flush=True,
    )
    for row in rows_wanted:
        if row.precision not in rates:
            rates[row.precision] = machine_rates(device, row.precision)
        request = {
            "row": asdict(row),
            "file": str(file),
            "device_name": str(device),
            "repeats": args.repeats,
            "cache_dir": str(cache_dir),
        }
        try:
            _, text = in_process("-m", "benchmarks.step_time", json.dumps(request))
            figures = json.loads(text.splitlines()[-1])
        except (RuntimeError, ValueError) as error:
            print(f"{row.formulation:26}{row.precision:10}{row.batch:5}  {escaped(error)}")
            continue
        seconds = statistics.median(figures["seconds"])
        first = first or seconds
        floor = needed * row.batch / max(rates[row.precision].values())
        figures |= {
            **asdict(row),
            "median": seconds,
            "images_per_minute": 60 * row.batch / (STEPS * seconds),
            "times_faster": first * row.batch / seconds,
            "times_floor": seconds / floor,
        }
        rows.append(figures)
        spread = f"{1e3 * min(figures['seconds']):.0f}-{1e3 * max(figures['seconds']):.0f}"
        print(
            f"{row.formulation:26}{row.precision:10}{row.batch:5}{1e3 * seconds:9.1f}{spread:>13}"
            f"{figures['images_per_minute']:11.2f}{whole(figures['peak_mb']):>9}"
            f"{figures['times_faster']:9.2f}{figures['times_floor']:8.2f}",
            flush=True,
        )
    for precision, of in rates.items():
        told = ", ".join(f"{work} {2 * rate / 1e9:.0f}" for work, rate in of.items())
        print(f"rate in {precision}, GFLOP/s: {told}; the floor is by the higher one")
    return rows


def measure_stylegan3(args, device: torch.device, cache_dir: Path) -> list[dict]:
    """The table of StyleGAN3's steps, batch 1, printed row by row."""
    precisions = sorted({row.precision for row in rows_for(device, [1])[2:]}, reverse=True)
    formulations = ["eager", "compiled"] if device.type == "cpu" else ["eager"]
    rows = []
    print(
        f"{'network':18}{'formulation':16}{'precision':10}{'ms/step':>9}{'peak MB':>9}"
        f"{'x faster':>9}{'x floor':>8}",
        flush=True,
    )
    rates = {each: max(machine_rates(device, each).values()) for each in precisions}
    for family, resolution in stylegan3_steps.SHAPES:
        needed, first = 2 * stylegan3_steps.published(family, resolution).multiply_adds, None
        for form, precision in stylegan3_steps.rows_for(resolution, precisions, formulations):
            request = {
                "family": family,
                "resolution": resolution,
                "formulation": form,
                "precision": precision,
                "device_name": str(device),
                "repeats": args.repeats if form in formulations else 1,
                "cache_dir": str(cache_dir),
            }
            name = f"{family} {resolution}"
            try:
                _, text = in_process("-m", "benchmarks.stylegan3_steps", json.dumps(request))
                figures = json.loads(text.splitlines()[-1])
            except (RuntimeError, ValueError) as error:
                print(f"{name:18}{form:16}{precision:10}  {escaped(error)}")
                continue
            seconds = statistics.median(figures["seconds"])
            first = first or seconds
            figures |= {
                **request,
                "median": seconds,
                "times_faster": first / seconds if resolution == 256 else None,
                "times_floor": seconds * rates[precision] / needed,
            }
            faster = f"{first / seconds:9.2f}" if resolution == 256 else f"{'':9}"
            rows.append(figures)
            print(
                f"{name:18}{form:16}{precision:10}{1e3 * seconds:9.0f}"
                f"{whole(figures['peak_mb']):>9}{faster}{figures['times_floor']:8.2f}",
                flush=True,
            )
    return rows


def show_time(figures: dict, name: str, seconds: float) -> None:
    figures[name] = seconds
    print(f"{name:60}{seconds:8.1f} s", flush=True)


def measure_start(device: torch.device, file: Path, folder: Path) -> dict:
    """What passes before the first step."""
    figures: dict[str, float] = {}
    show_time(figures, "import torch", in_process("-c", "import torch")[0])
    everything = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import PULSE"
    show_time(figures, "import PULSE (torch included)", in_process("-c", everything)[0])
    cache = folder / "start"
    start = time.perf_counter()
    model = PULSE(file, str(device), cache, compile="on")
    show_time(figures, "load a generator", time.perf_counter() - start)
    for name in ("compile and fold weights, cold", "the same, compiled code from the cache"):
        start = time.perf_counter()
        PULSE(file, str(device), cache, compile="on").fast_form(STEPS)
        show_time(figures, name, time.perf_counter() - start)
    del model
    return figures


def measure_runs(device: torch.device, file: Path, resolution: int, folder: Path) -> dict:
    """Whole calls of run.py, start-up included."""
    figures: dict[str, float] = {}
    random = np.random.default_rng(0)
    for number, side in ((1, 32), (8, 16)):
        (folder / f"{number}").mkdir()
        for i in range(number):
            pixels = random.integers(64, 192, (side, side, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}" / f"{i}.png")
    calls = [
        (f"run.py, 1 image of {resolution} pixels, cold cache", 1, file, "cold"),
        (f"run.py, 1 image of {resolution} pixels, warm cache", 1, file, "cold"),
        ("run.py -generator demo64, 8 images, cold cache", 8, DEMO64, "demo"),
        ("run.py -generator demo64, 8 images, warm cache", 8, DEMO64, "demo"),
    ]
    for i, (name, number, generator, cache) in enumerate(calls):
        flags = {
            "input_dir": folder / f"{number}",
            "output_dir": folder / f"out{i}",
            "cache_dir": folder / cache,
            "generator": generator,
            "device": device,
            "seed": 0,
        }
        words = [str(word) for flag, value in flags.items() for word in (f"-{flag}", value)]
        show_time(figures, name, in_process(str(ROOT / "run.py"), *words)[0])
    return figures


def measure_search(args, device: torch.device, file: Path, folder: Path) -> list[dict]:
    """The table of benchmarks/search_times.py: of both demo generators, and of the random one; on
    CUDA, where nobody's first search is compiled, with `-compile on` in each precision as well.
    """
    forms = [("auto", None)]
    if device.type == "cuda":
        forms += [("on", precision) for precision in PRECISIONS]
    found = []
    for generator, form in itertools.product((DEMO64, DEMO, file), forms):
        cache = folder / "search"
        found.append(time_searches(generator, device, cache, args.steps, args.repeats, *form))
        print_searches(found[-1])
        print(flush=True)
    return found


def measure_faces(args, device: torch.device, folder: Path) -> list[dict]:
    """Searches by benchmarks/search_quality.py, for faces at 16×16 pixels. Raises: UserError."""
    words = ["-input_dir", args.faces, "-output_dir", folder / "lr", "-mode", "resize", "-quiet"]
    words += ["-output_size", 16]
    (folder / "lr").mkdir()  # else, where no photograph can be used, nobody makes it
    try:
        in_process(str(ROOT / "align_face.py"), *map(str, words))
    except RuntimeError as error:
        raise UserError(f"-faces {args.faces}: {str(error)}") from None
    pictures = [to_tensor(read_picture(path)) for path in list_pictures(folder / "lr")[0]]
    if not pictures:
        raise UserError(
            f"-faces {args.faces} holds no picture that can be used: put photographs of faces there"
        )
    return compare(DEMO64, device, folder / "demo", torch.stack(pictures), args.steps)


def measure_profile(args, file: Path, cache_dir: Path) -> dict[str, dict[str, float]]:
    """The table of benchmarks/step_profile.py, in each precision of the CPU."""
    found = {}
    for precision in ["float32"] + ["bfloat16"] * has_bfloat16():
        model = PULSE(file, "cpu", cache_dir, compile="on", precision=precision)
        model.fast_form(STEPS)
        found[precision] = profile(model, args.repeats)
        print(f"a step in {precision}, {model.formulation}, ms:")
        for part, seconds in found[precision].items():
            print(f"  {part:50}{1e3 * seconds:8.1f}", flush=True)
    return found


def parser() -> Parser:
    flags = Parser(__doc__)
    flags.flag("device", "auto, cuda, mps or cpu", "auto")
    flags.flag("resolution", "of the random generator that is timed", 1024, type=int)
    flags.flag("repeats", "steps of which the median is taken", 7, type=int)
    flags.flag(
        "batches", "batch sizes", shown="1, on CUDA 1 4 16 32", nargs="+", type=int, metavar="B"
    )
    flags.flag(
        "parts",
        "of steps, stylegan2 and stylegan3 (their steps, 2 and 10 minutes on two cores), start, "
        "runs, search (the published one and the quick one, in turn), faces, profile (of a CPU)",
        nargs="+",
        choices=PARTS,
        shown="steps start runs",
    )
    flags.flag("faces", "folder of square photographs of faces, for that part", type=Path)
    flags.flag("steps", "of each search of the parts search and faces", STEPS, type=int)
    flags.flag("json", "write the figures to this file as well", type=Path, metavar="FILE")
    flags.flag("overwrite", "replace that file if it exists", False, action="store_true")
    return flags


def check(args) -> None:
    """Raises: UserError for what nothing could be measured with, or not be written."""
    if args.repeats < 1 or min(args.batches or [1]) < 1:
        raise UserError("repeats and batches must be whole numbers of at least 1")
    if args.resolution < 64 or args.resolution & (args.resolution - 1):
        raise UserError(
            f"resolution must be a power of two of at least 64, not {args.resolution}: LR are 32"
        )
    require_positive("steps", args.steps)
    if ("faces" in args.parts) != (args.faces is not None):
        raise UserError("the part faces needs a folder of them: -parts faces -faces FOLDER")
    if args.faces is not None:
        pictures_in(args.faces, "-faces", "square photographs of faces")
    if args.json is not None:
        require_file_writable(args.json, "-json", args.overwrite)


def main() -> int:
    args = parser().parse_args()
    args.parts = args.parts or [part for part in PARTS if part not in ON_REQUEST]
    check(args)
    device = choose_device(args.device)
    if "profile" in args.parts and device.type != "cpu":
        raise UserError("the part profile times functions of a CPU: give -device cpu")
    args.batches = args.batches or ([1, 4, 16, 32] if device.type == "cuda" else [1])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    about = {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "resolution": args.resolution,
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    figures: dict = {"about": about}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        file = folder / "random.pt"
        if not set(args.parts) <= {"faces", "stylegan2", "stylegan3"}:
            network = random_generator(file, args.resolution)
        if "steps" in args.parts:
            figures["steps"] = measure_steps(args, device, network, file, folder / "cache")
        if "stylegan2" in args.parts:
            second = folder / "stylegan2.pt"
            network = random_stylegan2(second, args.resolution)
            figures["stylegan2"] = measure_steps(args, device, network, second, folder / "cache")
        if "stylegan3" in args.parts:
            figures["stylegan3"] = measure_stylegan3(args, device, folder / "cache")
        if "start" in args.parts:
            figures["start"] = measure_start(device, file, folder)
        if "runs" in args.parts:
            figures["runs"] = measure_runs(device, file, args.resolution, folder)
        if "search" in args.parts:
            figures["search"] = measure_search(args, device, file, folder)
        if "faces" in args.parts:
            figures["faces"] = measure_faces(args, device, folder)
        if "profile" in args.parts:
            figures["profile"] = measure_profile(args, file, folder / "cache")
    if args.json:
        try:
            with atomic_write(args.json) as out:
                out.write(json.dumps(figures, indent=1).encode())
        except OSError as error:
            reason = f"cannot be written ({error.strerror}): make room there"
            raise UserError(f"-json {args.json} {reason}") from None
    return OK


if __name__ == "__main__":
    run_command(main)
