"""Generators that NVIDIA serves, by name: `-generator ffhq2`.

Each is fetched once, kept only if it loads strictly as the network that its name promises, and held
to its SHA-256 from then on. StyleGAN1's FFHQ has other sources: ffhq.py.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

from cli.errors import UserError
from cli.progress import tell
from drive import RemoteFile, Source, open_url
from generators.ffhq import held_against_first_load, keep_digest
from generators.formats import FAMILIES, read_networks
from generators.networks import Networks

NGC = "https://api.ngc.nvidia.com/v2/models/nvidia/research/"
CDN = "https://nvlabs-fi-cdn.nvidia.com/"
SERVERS = {
    "stylegan2": NGC + "stylegan2/versions/1/files/",
    "stylegan3": NGC + "stylegan3/versions/1/files/",
    "ada": CDN + "stylegan2-ada-pytorch/pretrained/",
    "transfer": CDN + "stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets/",
    "tensorflow": CDN + "stylegan2/networks/",
}
LICENCES = {
    "stylegan2": "NVIDIA Source Code License (StyleGAN2-ADA and StyleGAN3)",
    "stylegan3": "NVIDIA Source Code License (StyleGAN3)",
    "ada": "NVIDIA Source Code License (StyleGAN2-ADA)",
    "transfer": "NVIDIA Source Code License (StyleGAN2-ADA)",
    "tensorflow": "NVIDIA Source Code License-NC (StyleGAN2)",
}
USE = "research or evaluation only, not for commercial use"


class Public(NamedTuple):
    """One of these generators."""

    name: str
    server: str  # of SERVERS
    file: str
    pixels: int
    megabytes: int  # about; 0 where that is not known
    pictures: str
    drive: str = ""  # a Google Drive id of the same file

    @property
    def family(self) -> str:
        if self.server == "stylegan3":
            return self.file[: len("stylegan3-t")]
        return "stylegan2"

    @property
    def licence(self) -> str:
        return f"{LICENCES[self.server]}: {USE}"

    @property
    def remote(self) -> RemoteFile:
        sources = [Source(SERVERS[self.server] + self.file)]
        sources += [Source(f"drive:{self.drive}")] if self.drive else []
        most = int((self.megabytes or 600) * 1.5e6)
        return RemoteFile(self.file, tuple(sources), max_bytes=most)


def _of_server(server: str, *rows: tuple) -> list[Public]:
    return [Public(name, server, *row) for name, *row in rows]


_T, _R = (
    [
        (f"ffhq3-{c}", f"stylegan3-{c}-ffhq-1024x1024.pkl", 1024, large, "faces"),
        (f"ffhqu3-{c}", f"stylegan3-{c}-ffhqu-1024x1024.pkl", 1024, large, "unaligned faces"),
        (f"ffhqu3-{c}-256", f"stylegan3-{c}-ffhqu-256x256.pkl", 256, small, "unaligned faces"),
        (f"metfaces3-{c}", f"stylegan3-{c}-metfaces-1024x1024.pkl", 1024, large, "painted faces"),
        (
            f"metfacesu3-{c}",
            f"stylegan3-{c}-metfacesu-1024x1024.pkl",
            1024,
            large,
            "unaligned painted faces",
        ),
        (f"afhqv2-3-{c}", f"stylegan3-{c}-afhqv2-512x512.pkl", 512, middle, "animals' faces"),
    ]
    for c, large, middle, small in (("t", 295, 315, 283), ("r", 237, 249, 222))
)
PUBLIC = (
    *_of_server(
        "stylegan2",
        ("ffhq2", "stylegan2-ffhq-1024x1024.pkl", 1024, 381, "faces"),
        ("ffhq2-512", "stylegan2-ffhq-512x512.pkl", 512, 364, "faces"),
        ("ffhq2-256", "stylegan2-ffhq-256x256.pkl", 256, 296, "faces"),
        ("ffhqu2", "stylegan2-ffhqu-1024x1024.pkl", 1024, 381, "unaligned faces"),
        ("ffhqu2-256", "stylegan2-ffhqu-256x256.pkl", 256, 296, "unaligned faces"),
        ("metfaces", "stylegan2-metfaces-1024x1024.pkl", 1024, 381, "painted faces"),
        ("metfacesu", "stylegan2-metfacesu-1024x1024.pkl", 1024, 381, "unaligned painted faces"),
        ("celebahq-256", "stylegan2-celebahq-256x256.pkl", 256, 296, "faces"),
        ("afhqcat", "stylegan2-afhqcat-512x512.pkl", 512, 364, "cats' faces"),
        ("afhqdog", "stylegan2-afhqdog-512x512.pkl", 512, 364, "dogs' faces"),
        ("afhqwild", "stylegan2-afhqwild-512x512.pkl", 512, 364, "wild animals' faces"),
        ("afhqv2", "stylegan2-afhqv2-512x512.pkl", 512, 364, "animals' faces"),
        ("lsundog-256", "stylegan2-lsundog-256x256.pkl", 256, 296, "dogs"),
        ("brecahad", "stylegan2-brecahad-512x512.pkl", 512, 364, "histology"),
        ("cifar10", "stylegan2-cifar10-32x32.pkl", 32, 0, "10 classes, -label 0 to 9"),
    ),
    *_of_server("stylegan3", *_T, *_R),
    *_of_server(
        "ada",
        ("ffhq2-ada", "ffhq.pkl", 1024, 381, "faces"),
        ("metfaces-ada", "metfaces.pkl", 1024, 381, "painted faces"),
        ("afhqcat-ada", "afhqcat.pkl", 512, 364, "cats' faces"),
        ("afhqdog-ada", "afhqdog.pkl", 512, 364, "dogs' faces"),
        ("afhqwild-ada", "afhqwild.pkl", 512, 364, "wild animals' faces"),
        ("brecahad-ada", "brecahad.pkl", 512, 364, "histology"),
        ("cifar10-ada", "cifar10.pkl", 32, 0, "10 classes, -label 0 to 9"),
    ),
    *_of_server(
        "transfer",
        ("ffhq2-ada-256", "ffhq-res256-mirror-paper256-noaug.pkl", 256, 296, "faces"),
        ("ffhq2-ada-512", "ffhq-res512-mirror-stylegan2-noaug.pkl", 512, 364, "faces"),
        ("ffhq2-ada-1024", "ffhq-res1024-mirror-stylegan2-noaug.pkl", 1024, 381, "faces"),
        (
            "celebahq-ada-256",
            "celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl",
            256,
            296,
            "faces",
        ),
        ("lsundog-ada-256", "lsundog-res256-paper256-kimg100000-noaug.pkl", 256, 296, "dogs"),
    ),
    *_of_server(
        "tensorflow",
        *(
            (name, f"stylegan2-{kind}-config-f.pkl", pixels, 381, pictures, drive)
            for name, kind, pixels, pictures, drive in (
                ("ffhq2-tf", "ffhq", 1024, "faces", "1Mgh-jglZjgksupF0XLl0KzuOqd1LXcoE"),
                ("car-tf", "car", 512, "cars", "1MutzVf8XjNo6TUg03a6CUU_2Vlc0ltbV"),
                ("cat-tf", "cat", 256, "cats", "1MyowTZGvMDJCWuT7Yg2e_GnTLIzcSPCy"),
                ("church-tf", "church", 256, "churches", "1N3iaujGpwa6vmKCqRSHcD6GZ2HVV8h1f"),
                ("horse-tf", "horse", 256, "horses", "1N55ZtBhEyEbDn6uKBjCNAew1phD5ZAh-"),
            )
        ),
    ),
)
BY_NAME = {public.name: public for public in PUBLIC}
NAMES = ("ffhq", "demo", "demo64", *BY_NAME)
ADDRESS = re.compile("https?://")


def load_public(public: Public, cache_dir: Path, progress: bool = True) -> Networks:
    """The networks of one of PUBLIC, from the cache or from NVIDIA. progress: tell of a download on
    stderr; the licence is told at the first use in any case. Raises: UserError.
    """

    def check(path: Path) -> None:
        size = path.stat().st_size / 1e6
        if size < public.megabytes / 1.5:
            raise UserError(f"it is of {size:.1f} MB, where about {public.megabytes} are expected")
        _require(public, read_networks(path), path)

    path = open_url(public.remote, cache_dir, check=check, progress=progress)
    digest = held_against_first_load(path)
    networks = read_networks(path)
    _require(public, networks, path)
    if keep_digest(path, digest):
        tell(f"licence of {public.name}: {public.licence}", file=sys.stderr)
    networks.about["licence"] = public.licence
    return networks


def _require(public: Public, networks: Networks, path: Path) -> None:
    found, pixels = networks.synthesis.family, networks.synthesis.resolution
    if (found, pixels) != (public.family, public.pixels):
        raise UserError(
            f"{path} is not {public.name}: it is a {FAMILIES[found]} of {pixels} pixels, not a "
            f"{FAMILIES[public.family]} of {public.pixels}"
        )


def load_from_address(url: str, cache_dir: Path, progress: bool = True) -> Networks:
    """The networks of a weight file at any https address, fetched once. Raises: UserError."""
    path = open_url(url, cache_dir, check=read_networks, progress=progress)
    digest = held_against_first_load(path)
    networks = read_networks(path)
    keep_digest(path, digest)
    return networks
