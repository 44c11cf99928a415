"""The search of PULSE (Menon et al., CVPR 2020): walk the faces that a generator can make until one
downscales to the LR picture.

    from PULSE import PULSE
    model = PULSE(generator="demo")
    for HR, LR in model(ref_im, seed=0):  # ref_im (B, 3, h, h) in [0, 1]
        ...                               # HR (B, 3, S, S), LR (B, 3, h, h), in [0, 1], on the CPU

The latents and some noise maps are moved by gradient descent, each projected onto its own sphere
after every step. Every iterate is judged before its step; of each picture the best one is kept: the
lowest loss among those within eps, or else among all.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cli.errors import UserError
from fast.choose import Accelerator
from generators.latents import Latent, read_latent, redraw
from generators.load import Generator, load_generator
from search_settings import Settings, require_seed
from walk import Result, Walk


class Search:
    """One search over a batch of pictures: iterate over it once, then read `results`.

    Yields (HR, LR) once, at the end, or with save_intermediate after every step. On a CPU the
    pictures are searched one by one within each step: batching gains nothing there, and so a
    picture's result does not depend on its neighbours to the last bit.
    """

    def __init__(
        self,
        generator: Generator,
        ref_im: Tensor,
        settings: Settings,
        seeds: Sequence[int],
        save_intermediate: bool,
        on_step: Callable[[int, dict[str, Tensor]], None] | None,
        replay: bool,
    ):
        self.steps = settings.steps
        self.save_intermediate, self.on_step = save_intermediate, on_step
        alone = generator.mean.device.type == "cpu"
        size = 1 if alone else len(seeds)
        self.walks = [
            Walk(generator, ref_im[i : i + size], settings, seeds[i : i + size], replay)
            for i in range(0, len(seeds), size)
        ]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(self.walks[0].steps_done, self.steps):
            figures = [walk.step() for walk in self.walks]
            if self.on_step is not None:
                names = figures[0]
                self.on_step(step, {name: torch.cat([f[name] for f in figures]) for name in names})
            if self.save_intermediate or step + 1 == self.steps:
                HR, LR = zip(*(walk.pictures() for walk in self.walks), strict=True)
                yield torch.cat(HR), torch.cat(LR)

    @property
    def iterates(self) -> tuple[Tensor, Tensor]:
        """The present iterates, for an `on_step`: HR and LR as they are yielded."""
        HR, LR = zip(*(walk.iterate for walk in self.walks), strict=True)
        return torch.cat(HR).clamp(0, 1).cpu(), torch.cat(LR).clamp(0, 1).cpu()

    @property
    def latents(self) -> list[Latent]:
        """What the best so far were drawn from, one Latent per picture."""
        return [latent for walk in self.walks for latent in walk.latents()]

    @property
    def results(self) -> list[Result]:
        """What was reached so far, one Result per picture."""
        return [result for walk in self.walks for result in walk.results()]


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else Apple's MPS, else the CPU.

    Raises: UserError for a device that this machine, or this PyTorch, does not have.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, is_there in there.items() if is_there)
    if not there.get(name.split(":")[0], False):
        raise UserError(f"device {name!r} is not available here: use auto or cpu")
    return torch.device(name)


class PULSE:
    """A generator on a device, ready to search.

    generator: `ffhq`, `demo` or the path of a weight file. device: `auto`, `cuda`, `mps` or `cpu`.
    cache_dir: where weights, prior fits and compiled code are kept. compile: `auto`, `on` or `off`.
    precision: `float32`, `tf32` or `bfloat16`, of the network's convolutions; None is PyTorch's own
    choice (accelerate.py). progress: tell of downloads on stderr. `formulation` is what the last
    search was computed with.

    Raises: UserError where no generator can be had under that name; ValueError for a device
    that is not there, or an unknown `compile` or `precision`.
    """

    def __init__(
        self,
        generator: str | os.PathLike = "ffhq",
        device: str = "auto",
        cache_dir: str | os.PathLike = "cache",
        compile: str = "auto",
        precision: str | None = None,
        progress: bool = True,
    ):
        self.device = choose_device(device)
        self.generator = load_generator(generator, cache_dir, progress).to(self.device)
        self._accelerator = Accelerator(
            self.generator.synthesis, Path(cache_dir), compile, precision
        )
        self.precision = self._accelerator.precision
        self.formulation = "plain"

    def accelerate(self, steps: int, like: str | None = None) -> None:
        """Compute the generator's pictures in the form that is best for searches of `steps`, or
        `like` an earlier one.
        """
        self.formulation, self.generator.synthesize = self._accelerator.choose(steps, like)

    def __call__(
        self,
        ref_im: Tensor,
        *,
        seed: int | Sequence[int] | None = None,
        save_intermediate: bool = False,
        on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
        settings: Settings | None = None,
        **changes,
    ) -> Search:
        """Search for pictures that downscale to `ref_im` (B, 3, h, h) in [0, 1]; (3, h, h) is one
        picture.

        seed: one number for all pictures, or one each; None draws one (it is in the results).
        save_intermediate: yield the best pair so far after every step. on_step: called as
        on_step(step, figures) with "L2", "GEOCROSS" and "total" of the present iterates, tensors
        (B,) on the device. settings: a Settings; single ones can be given by name, as in
        `model(ref_im, steps=200, eps=1e-3)`.

        Raises: UserError, one sentence, for a tensor, seed or setting that cannot be used;
        TypeError for an unknown name.
        """
        settings = dataclasses.replace(settings or Settings(), **changes)
        settings.check()
        settings.noise_roles(self.generator.num_layers)
        if ref_im.ndim == 3:
            ref_im = ref_im[None]
        if ref_im.ndim != 4 or len(ref_im) == 0 or ref_im.shape[1] != 3:
            raise UserError(
                f"ref_im must be (B, 3, h, h), red, green and blue, not {tuple(ref_im.shape)}"
            )
        require_lr_size(ref_im.shape[-1], ref_im.shape[-2], self.generator.resolution)
        ref_im = ref_im.detach().float()
        if not bool(((ref_im >= 0) & (ref_im <= 1)).all()):
            raise UserError("ref_im has values outside [0, 1]: divide 8-bit pixels by 255")
        if seed is None:
            seed = secrets.randbelow(2**31)
        seeds = [seed] * len(ref_im) if isinstance(seed, int) else [int(each) for each in seed]
        if len(seeds) != len(ref_im):
            raise UserError(f"{len(seeds)} seeds were given for {len(ref_im)} pictures")
        for each in seeds:
            require_seed(each)
        self.accelerate(settings.steps)
        replay = self._accelerator.replays(settings.steps)
        return Search(self.generator, ref_im, settings, seeds, save_intermediate, on_step, replay)

    def render(self, file: str | os.PathLike) -> Tensor:
        """The picture of a latent file that `run.py -save_latent` wrote: HR (1, 3, S, S) in [0, 1],
        on the CPU. On a CPU it is the search's own to the last bit, with as many threads.

        Raises: UserError for a file that cannot be used, or is of another generator.
        """
        record = read_latent(file)[1]
        self.accelerate(record["settings"]["steps"], record.get("formulation"))
        return redraw(self.generator, file)


def require_lr_size(width: int, height: int, resolution: int) -> None:
    """Raises: UserError unless the LR is square, its side divides S and 2 ≤ side ≤ S/2."""
    if width != height:
        raise UserError(f"it is {width}×{height}, not square: align_face.py makes square pictures")
    if not 2 <= width <= resolution // 2 or resolution % width:
        sizes = ", ".join(str(2**k) for k in range(1, resolution.bit_length() - 1))
        raise UserError(
            f"its side is {width} pixels; for this generator it must be one of {sizes}: "
            f"align_face.py -output_size makes such pictures"
        )
