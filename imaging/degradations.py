"""The degradations of the paper's robustness experiment: noise on LR, motion blur on HR before it
is downscaled.

    degradation = parse("gaussian:25")
    rng = face_rng(7, "anna.jpg", 0)  # for this seed, picture and face always the same
    LR = degradation.of_lr(LR, rng)

Pictures are Pillow's, RGB; pixels are 0 … 255.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.fft import irfft2, rfft2

from cli.errors import UserError

REFERENCE = 1024  # pixels a side of the square that lengths of motion are given for
# kind → bounds of the amount, above the first and at most the second, and what it is
KINDS = {
    "gaussian": (0, 255, "a standard deviation, of pixels 0 to 255"),
    "saltpepper": (0, 1, "a share of the pixels"),
    "motion": (0, REFERENCE, f"a length in pixels of a picture of {REFERENCE}"),
}


@dataclass(frozen=True)
class Degradation:
    """A kind and an amount: str() writes `gaussian:25`."""

    kind: str
    amount: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.amount:g}"

    def of_hr(self, square: Image.Image, rng: np.random.RandomState) -> tuple[Image.Image, str]:
        """The part before downscaling, with a description: motion blur in a random direction, of a
        length that is scaled to the side of `square`; of other kinds `square` itself and "".
        """
        if self.kind != "motion":
            return square, ""
        length = self.amount * square.width / REFERENCE
        degrees = rng.uniform(0, 180)
        blurred = motion_blur(square, length, degrees)
        return blurred, f", {length:.4g} pixels of {square.width}, at {degrees:.1f} degrees"

    def of_lr(self, small: Image.Image, rng: np.random.RandomState) -> Image.Image:
        """The part after downscaling: noise; of motion `small` itself."""
        if self.kind == "gaussian":
            return gaussian_noise(small, self.amount, rng)
        if self.kind == "saltpepper":
            return salt_and_pepper(small, self.amount, rng)
        return small


def parse(text: str) -> Degradation:
    """`"gaussian:25"` → a Degradation. Raises: UserError, one sentence, for anything else."""
    kind, _, number = text.partition(":")
    if kind not in KINDS:
        raise UserError(
            f"-degrade {text!r} is unknown: use gaussian:25, saltpepper:0.05 or motion:100"
        )
    low, high, what = KINDS[kind]
    plain = re.fullmatch(r"\d+(\.\d*)?|\.\d+", number, re.ASCII)
    if not plain or not low < float(number) <= high:
        raise UserError(f"-degrade {text!r}: {kind} takes {what}, above {low} and at most {high}")
    return Degradation(kind, float(number))


def face_rng(seed: int, picture: str, face: int) -> np.random.RandomState:
    """The random numbers of one face of one picture, whatever else is in the folder.

    RandomState, because NumPy promises that its numbers never change.
    """
    digest = hashlib.sha256(b"%d/%d/%s" % (seed, face, os.fsencode(picture))).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4").astype(np.uint32))


def gaussian_noise(picture: Image.Image, std: float, rng: np.random.RandomState) -> Image.Image:
    """Noise of standard deviation `std` on every pixel and colour; rounded, clipped to 0 … 255."""
    pixels = np.asarray(picture).astype(np.float64)
    pixels += rng.normal(0, std, pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def salt_and_pepper(picture: Image.Image, share: float, rng: np.random.RandomState) -> Image.Image:
    """That share of the pixels black or white, as likely the one as the other."""
    pixels = np.array(picture)
    draw = rng.uniform(0, 1, pixels.shape[:2])
    pixels[draw < share] = 255
    pixels[draw < share / 2] = 0
    return Image.fromarray(pixels)


def line_kernel(length: float, degrees: float) -> np.ndarray:
    """(k, k), k odd, sum 1: a line of `length` pixels through the middle, antialiased; 0 degrees is
    horizontal, 90 upwards.
    """
    radius = math.ceil((length + 1) / 2)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    along, across = x * cos - y * sin, x * sin + y * cos
    # The share of a pixel's width that lies before the line's end, times how near the line passes.
    kernel = np.clip((length + 1) / 2 - abs(along), 0, 1) * np.clip(1 - abs(across), 0, 1)
    return kernel / kernel.sum()


def motion_blur(picture: Image.Image, length: float, degrees: float) -> Image.Image:
    """Every pixel becomes a line of that length and direction; edges are mirrored."""
    kernel = line_kernel(length, degrees).astype(np.float32)
    pixels = np.array(picture)
    for c in range(3):  # one colour at a time, in a third of the memory
        padded = np.pad(pixels[..., c].astype(np.float32), len(kernel) // 2, "symmetric")
        blurred = irfft2(rfft2(padded) * rfft2(kernel, padded.shape), padded.shape)
        whole = blurred[len(kernel) - 1 :, len(kernel) - 1 :]  # the rest has wrapped around
        pixels[..., c] = np.clip(np.rint(whole), 0, 255)
    return Image.fromarray(pixels)
