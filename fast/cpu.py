"""cpu.c, compiled once for this machine and each type of pictures and kept in the cache, as Kernels
of synthesis.py; and the same for C files of other networks.

No compiler, a failing one or a result that is not right are no errors: the reason is returned, and
PyTorch's own operations are used.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fast.kernel_check import first_wrong
from fast.layers import channels_last
from fast.synthesis import PictureGrad, TorchKernels

SOURCE = Path(__file__).with_name("cpu.c")
HEADER = Path(__file__).with_name("pixels.h")  # of all such files
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
DTYPES = {torch.float32: [], torch.bfloat16: ["-DBFLOAT16"]}  # of pictures, and flags for them
KINDS = {"p": ctypes.c_void_p, "l": ctypes.c_long, "i": ctypes.c_int, "f": ctypes.c_float}
ARGUMENTS = {  # of KINDS; p: address of pixels, floats or doubles
    "pulse_leaky": "pppppp" + "llli" + "i",
    "pulse_affine": "ppppp" + "ll" + "i",
    "pulse_picture": "ppppp" + "ll" + "i",
    "pulse_sums": "pppppp" + "lll" + "i",
    "pulse_leaky_grad": "ppppppppp" + "llli" + "i",
}


class Library:
    """A compiled C file, for pictures of one of DTYPES on the CPU."""

    formulation = "compiled"

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype):
        self.library, self.dtype = library, dtype

    def _call(self, name: str, *arguments) -> None:
        """A function of it, the number of threads its last argument. Raises: MemoryError."""
        pointers = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
        if getattr(self.library, name)(*pointers, torch.get_num_threads()):
            raise MemoryError(f"{name} found no memory for a few rows of pixels")


class NativeKernels(Library, TorchKernels):
    """Kernels of cpu.c."""

    def leaky(self, y, bias, weight, noise, blur):
        y = channels_last(y)
        B, C, rows, width = y.shape
        x = torch.empty_like(y) if blur else y
        moments = torch.empty(2, B, C, dtype=torch.float64)
        for i in range(B):
            maps = 0 if noise is None else noise[i].contiguous()
            found = torch.empty(2, C, dtype=torch.float64)
            sizes = (rows, width, C, int(blur))
            self._call("pulse_leaky", y[i], x[i], bias, weight, maps, found, *sizes)
            moments[:, i] = found
        return x, moments[0], moments[1]

    def affine(self, x, mean, a, b, overwrite):
        B, C, rows, width = x.shape
        out = x if overwrite else torch.empty_like(x)
        mean, a, b = (each.float().contiguous() for each in (mean, a, b))
        for i in range(B):
            self._call("pulse_affine", x[i], out[i], mean[i], a[i], b[i], rows * width, C)
        return out

    def picture(self, x, mean, a, b, weight, bias, overwrite):
        B, C, rows, width = x.shape
        out = torch.empty(B, 3, rows, width)
        mean, factor = mean.float().contiguous(), (weight * a[:, None]).float().contiguous()
        addend = (b @ weight.T + bias).float().contiguous()  # (B, 3)
        for i in range(B):
            self._call(
                "pulse_picture", x[i], out[i], mean[i], factor[i], addend[i], rows * width, C
            )
        return out

    def picture_grad(self, grad, weight, dtype):
        return PictureGrad(grad.contiguous(), weight.contiguous())

    def _gradient(self, g: Tensor | PictureGrad, i: int) -> tuple:
        """The arguments g, grad and weight of cpu.c for picture i of g."""
        return (0, g.grad[i], g.weight) if isinstance(g, PictureGrad) else (g[i], 0, 0)

    def sums(self, g, x, mean):
        g = g if isinstance(g, PictureGrad) else channels_last(g)
        B, C, rows, width = x.shape
        sums = torch.empty(2, B, C, dtype=torch.float64)
        # as leaky_grad has it, too: what is added up is the same x − mean
        rounded = mean.float().contiguous()
        for i in range(B):
            found = torch.empty(2, C, dtype=torch.float64)
            gradient, sizes = self._gradient(g, i), (rows, width, C)
            self._call("pulse_sums", *gradient, x[i], rounded[i], found, *sizes)
            sums[:, i] = found
        return sums[0], sums[1]

    def leaky_grad(self, g, x, mean, a, q, p, blur):
        g = g if isinstance(g, PictureGrad) else channels_last(g)
        B, C, rows, width = x.shape
        out = torch.empty_like(x) if blur or isinstance(g, PictureGrad) else g
        coefficients = [each.float().contiguous() for each in (mean, a, q, p)]
        for i in range(B):
            own = [each[i] for each in coefficients]
            gradient, sizes = self._gradient(g, i), (rows, width, C, int(blur))
            self._call("pulse_leaky_grad", *gradient, x[i], out[i], *own, *sizes)
        return out


def _compiler() -> str | None:
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _machine() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.machine() + platform.node()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))


def compiled_path(
    cache_dir: Path, dtype: torch.dtype = torch.float32, source: Path = SOURCE
) -> Path:
    """Where the compiled file of `source`, on this kind of machine, is kept."""
    flags = " ".join(FLAGS + DTYPES[dtype])
    parts = (HEADER.read_text(), source.read_text(), flags, _machine(), platform.system())
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return cache_dir / f"fast_{digest[:32]}.so"


def _compile(path: Path, dtype: torch.dtype, source: Path) -> str | None:
    """Make `path`. Returns why that failed, None where it did not."""
    compiler = _compiler()
    if compiler is None:
        return "no C compiler was found"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = os.path.join(folder, "fast.so")
            for flags in (["-fopenmp", *FLAGS], FLAGS):  # without OpenMP one thread does it all
                command = [compiler, *flags, *DTYPES[dtype], "-o", made, str(source)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=120)
                if done.returncode == 0:
                    os.replace(made, path)
                    return None
            lines = done.stderr.strip().splitlines() or ["it said nothing"]
            return f"{compiler} failed: {lines[0][:200]}"
    except (OSError, subprocess.SubprocessError) as error:
        return f"{compiler} could not be run in {path.parent} ({error})"


def load_kernels(
    kernels: type[Library],
    source: Path,
    arguments: dict[str, str],
    wrong: Callable[[Library], str | None],
    cache_dir: Path,
    dtype: torch.dtype,
) -> tuple[Library | None, str]:
    """`kernels` of a C file for pictures of `dtype`, from the cache or compiled now; or None and
    why. arguments: of its functions, by name; wrong: names one that computes something else, since
    a compiler may be broken, too.
    """
    path = compiled_path(Path(cache_dir), dtype, source)
    reason = None if path.exists() else _compile(path, dtype, source)
    if reason is not None:
        return None, reason
    try:
        library = ctypes.CDLL(str(path))
        for name, kinds in arguments.items():
            function = getattr(library, name)
            function.argtypes = [KINDS[kind] for kind in kinds]
            function.restype = ctypes.c_int
    except (OSError, AttributeError) as error:
        return None, f"{path} cannot be loaded ({error}): delete it"
    made = kernels(library, dtype)
    if (name := wrong(made)) is not None:
        return None, f"{name} of {path} computes something else: delete it"
    return made, ""


def load(cache_dir: Path, dtype: torch.dtype = torch.float32) -> tuple[NativeKernels | None, str]:
    """The compiled kernels of cpu.c, which compiles in about two seconds; or None and why."""

    def wrong(kernels: Library) -> str | None:
        return first_wrong(kernels, dtype)

    return load_kernels(NativeKernels, SOURCE, ARGUMENTS, wrong, cache_dir, dtype)
