"""The FFHQ StyleGAN of 1024 pixels: where it is sought and fetched, and how it is checked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from cli.errors import UserError
from cli.progress import tell
from drive import RemoteFile, Source, find_cached, open_url
from generators.formats import Networks, read_mapping, read_networks
from safe_files import atomic_write, sha256
from stylegan import G_mapping, G_synthesis

ONE_FILE = RemoteFile(
    name="karras2019stylegan-ffhq-1024x1024.for_g_all.pt",
    sources=(
        Source(
            "https://github.com/lernapparat/lernapparat/releases/download/v2019-02-01/"
            "karras2019stylegan-ffhq-1024x1024.for_g_all.pt"
        ),
    ),
    max_bytes=200 << 20,
)
SYNTHESIS = RemoteFile(
    name="synthesis.pt",
    sources=(Source("drive:1TCViX1YpQyRsklTVYEJwdbmK91vklCo8"),),
    git_blob_sha1="b3cd79264e182bb13a33043698b0a3d65791f738",
    old_prefix="6b943ee69b8491ac40e8e9ced6175659_",
    max_bytes=200 << 20,
)
MAPPING = RemoteFile(
    name="mapping.pt",
    sources=(Source("drive:14R6iHGf5iuVx3DMNsACAl7eBr7Vdpd0k"),),
    old_prefix="05118276f14e736e63065765a09feb78_",
    max_bytes=20 << 20,
)
PICKLE = RemoteFile(
    name="karras2019stylegan-ffhq-1024x1024.pkl",
    sources=(Source("drive:1MEGjdvVpUsu1jB4zrXZN7Y4kBBOzizDQ"),),
    max_bytes=500 << 20,
)
ANSWER_WITHIN = 7.0  # seconds that each way has for a first answer: without a network all fail soon

HELP = """\
The FFHQ generator is not here and could not be fetched.
{reasons}
By hand: fetch one of these on a machine that has a network,
{ways}
put it into {cache} (or give its path: -generator FILE), and run the same command again; it is
checked when it is loaded. To check it yourself: `git hash-object synthesis.pt` prints
{blob}; the one file has about 105 MB.
The next best is on NVIDIA's own host: add -generator ffhq2, faces of the same size by StyleGAN2
(381 MB, not for commercial use).
No weights at all are needed for the small generator of this repository: add -generator demo."""


def ways() -> list[tuple[RemoteFile, ...]]:
    """The files of which one set is enough, in the order in which they are tried."""
    return [(ONE_FILE,), (SYNTHESIS, MAPPING), (PICKLE,)]


def load_ffhq(cache_dir: Path, progress: bool | Callable = True) -> Networks:
    """The FFHQ networks from the cache, or else from the first source that gives them.

    What worked is remembered in the cache and tried first should the files be gone. progress:
    as open_url takes it. Raises: UserError with all that a user needs to help himself, or
    for a file in the cache that is damaged: nothing is fetched over it.
    """
    for files in ways():
        found = [find_cached(file, cache_dir) for file in files]
        if all(found):
            return _read(files, found)
    remembered = cache_dir / "ffhq_source.txt"
    first = remembered.read_text().strip() if remembered.is_file() else ""
    reasons = []
    for files in sorted(ways(), key=lambda files: files[0].name != first):
        try:
            found = [
                open_url(
                    file,
                    cache_dir,
                    check=_check(file),
                    answer_within=ANSWER_WITHIN,
                    progress=progress,
                )
                for file in files
            ]
        except UserError as error:
            reasons += error.lines
            continue
        with atomic_write(remembered) as note:
            note.write(f"{files[0].name}\n".encode())
        return _read(files, found)
    by_hand = (
        "\n".join(f"  {file.name}\n      from {_page(file)}" for file in files) for files in ways()
    )
    text = HELP.format(
        reasons="\n".join(reasons),
        ways="\n  or\n".join(by_hand),
        cache=f"{cache_dir}{os.sep}",
        blob=SYNTHESIS.git_blob_sha1,
    )
    raise UserError(*text.splitlines())


def _page(file: RemoteFile) -> str:
    """What a browser is given to fetch a file."""
    url = file.sources[0].url
    if url.startswith("drive:"):
        return f"https://drive.google.com/file/d/{url.removeprefix('drive:')}"
    return url


def _check(file: RemoteFile) -> Callable[[Path], None]:
    """What a downloaded file must pass before it is kept: to load strictly as FFHQ's networks."""

    def check(path: Path) -> None:
        if file is MAPPING:
            _require("mapping", read_mapping(path), G_mapping, path)
        else:
            networks = read_networks(path)
            _require("synthesis", networks.synthesis, G_synthesis, path)
            if file is not SYNTHESIS:
                _require("mapping", networks.mapping, G_mapping, path)

    return check


def _require(part: str, network, network_class, path: Path) -> None:
    """Raises: UserError naming the first key in which a network is not that of FFHQ at 1024."""
    if network is None:
        raise UserError(f"{path} has no {part} network")
    with torch.device("meta"):
        wanted = network_class().state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    for key, tensor in wanted.items():
        if shapes.get(key) != tuple(tensor.shape):
            raise UserError(
                f"{path} is not the FFHQ generator of 1024 pixels: {part} {key} is "
                f"{shapes.get(key, 'missing')}, not {tuple(tensor.shape)}"
            )


def _read(files: tuple[RemoteFile, ...], paths: list[Path]) -> Networks:
    """The networks of whole files. Raises: UserError where a file is not what it was."""
    pairs = zip(files, paths, strict=True)
    unchecked = [path for file, path in pairs if not (file.sha256 or file.git_blob_sha1)]
    digests = [held_against_first_load(path) for path in unchecked]
    networks = read_networks(*paths)
    _require("synthesis", networks.synthesis, G_synthesis, paths[0])
    _require("mapping", networks.mapping, G_mapping, paths[-1])
    for path, digest in zip(unchecked, digests, strict=True):
        keep_digest(path, digest)
    return networks


def held_against_first_load(path: Path) -> str:
    """The SHA-256 of a file of which no checksum is public. Raises: UserError where it is not that
    of its first load, as `keep_digest` has kept it.
    """
    kept, digest = _kept_digest(path), sha256(path)
    if kept.is_file() and kept.read_text().split()[:1] != [digest]:
        raise UserError(
            f"{path} has changed since it was first loaded (its SHA-256 is no longer that in "
            f"{kept.name}): delete both, then run again"
        )
    return digest


def keep_digest(path: Path, digest: str) -> bool:
    """After a file was loaded, and is right: print and keep its SHA-256. Returns whether this was
    the first time.
    """
    kept = _kept_digest(path)
    if kept.is_file():
        return False
    tell(f"SHA-256 of {path}: {digest}", file=sys.stderr)
    with atomic_write(kept) as note:
        note.write(f"{digest}  {path.name}\n".encode())
    return True


def _kept_digest(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
