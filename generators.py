"""A name or a file becomes a generator: synthesis network, prior, and what is known of it.

`ffhq` is looked for in the cache and then fetched; `demo` lies in this repository; anything else is
the path of a weight file.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from atomic import atomic_write
from drive import DownloadError, RemoteFile, Source, find_cached, open_url
from formats import FormatError, Networks, read_mapping, read_networks
from stylegan import LEAKY_SLOPE, G_mapping, G_synthesis

DEMO = Path(__file__).resolve().parent / "demo" / "faces64.pt"

FFHQ_ONE_FILE = RemoteFile(
    name="karras2019stylegan-ffhq-1024x1024.for_g_all.pt",
    sources=(
        Source(
            "https://github.com/lernapparat/lernapparat/releases/download/v2019-02-01/"
            "karras2019stylegan-ffhq-1024x1024.for_g_all.pt"
        ),
    ),
    max_bytes=200 << 20,
)
FFHQ_SYNTHESIS = RemoteFile(
    name="synthesis.pt",
    sources=(Source("drive:1TCViX1YpQyRsklTVYEJwdbmK91vklCo8"),),
    git_blob_sha1="b3cd79264e182bb13a33043698b0a3d65791f738",
    old_prefix="6b943ee69b8491ac40e8e9ced6175659_",
    max_bytes=200 << 20,
)
FFHQ_MAPPING = RemoteFile(
    name="mapping.pt",
    sources=(Source("drive:14R6iHGf5iuVx3DMNsACAl7eBr7Vdpd0k"),),
    old_prefix="05118276f14e736e63065765a09feb78_",
    max_bytes=20 << 20,
)

FFHQ_HELP = """\
The FFHQ generator is not here and could not be fetched.
{reasons}
By hand: fetch either of these on a machine that has a network,
  {one_file}
      from {one_url}
  synthesis.pt and mapping.pt
      from {synthesis_url}
      and {mapping_url}
put it into {cache} (or give its path: -generator FILE), and run the same command again; it is
checked when it is loaded. To check it yourself: `git hash-object synthesis.pt` prints
{blob}; `ls -l` of the one file shows about 105 MB.
No weights at all are needed for the small generator of this repository: add -generator demo."""


class GeneratorError(Exception):
    """No generator can be had under that name; the message says what to do."""


@dataclass
class Generator:
    """What the search walks on. Its networks need no gradient for their weights."""

    name: str
    synthesis: G_synthesis
    mean: Tensor  # (d,)
    std: Tensor  # (d,)
    about: dict

    @property
    def resolution(self) -> int:
        """S, the side of its pictures in pixels."""
        return self.synthesis.resolution

    @property
    def num_layers(self) -> int:
        """L, the number of latents and of noise maps of a picture."""
        return self.synthesis.num_layers

    @property
    def dlatent_size(self) -> int:
        """d, the width of a latent."""
        return self.synthesis.dlatent_size

    def w_of(self, v: Tensor) -> Tensor:
        """Search variable v (…, d) → generator input w = LeakyReLU(0.2)(v·std + mean)."""
        return F.leaky_relu(v * self.std + self.mean, LEAKY_SLOPE)

    def to(self, device: torch.device) -> Generator:
        """The same generator on `device`."""
        self.synthesis.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self


def load_generator(name: str | os.PathLike, cache_dir: str | os.PathLike = "cache") -> Generator:
    """`ffhq`, `demo` or the path of a weight file → a Generator on the CPU, in float32.

    Raises: GeneratorError, with the reason and what to do.
    """
    cache_dir = Path(cache_dir)
    try:
        if str(name) == "ffhq":
            networks = _ffhq(cache_dir)
        else:
            networks = read_networks(DEMO if str(name) == "demo" else Path(name))
        if networks.prior is None and networks.mapping is None:
            raise GeneratorError(
                f"{name} has neither a mapping network nor a prior fit: put its mapping.pt "
                f"beside it"
            )
        mean, std = networks.prior or cached_prior(networks.mapping, cache_dir)
    except FormatError as error:
        hint = "" if Path(name).exists() else ", or use the names ffhq or demo"
        raise GeneratorError(f"{error}{hint}") from None
    synthesis = networks.synthesis.eval().requires_grad_(False)
    return Generator(str(name), synthesis, mean, std, networks.about)


def _ffhq(cache_dir: Path) -> Networks:
    """The FFHQ networks from the cache, or else from the first source that gives them."""
    try:
        if path := find_cached(FFHQ_ONE_FILE, cache_dir):
            return _read_ffhq_one_file(path)
        synthesis = find_cached(FFHQ_SYNTHESIS, cache_dir)
        mapping = find_cached(FFHQ_MAPPING, cache_dir)
    except DownloadError as error:  # a file in the cache is damaged: nothing is fetched over it
        raise GeneratorError(str(error)) from None
    if synthesis and mapping:
        return _require_ffhq(read_networks(synthesis, mapping), synthesis)
    try:
        path = open_url(FFHQ_ONE_FILE, cache_dir, check=_check_one_file, answer_within=10)
        return _read_ffhq_one_file(path)
    except DownloadError as error:
        reasons = [str(error)]
    try:
        synthesis = open_url(FFHQ_SYNTHESIS, cache_dir, check=_check_synthesis, answer_within=8)
        mapping = open_url(FFHQ_MAPPING, cache_dir, check=_check_mapping, answer_within=8)
        return _require_ffhq(read_networks(synthesis, mapping), synthesis)
    except DownloadError as error:
        reasons.append(str(error))
    raise GeneratorError(
        FFHQ_HELP.format(
            reasons="\n".join(reasons),
            one_file=FFHQ_ONE_FILE.name,
            one_url=FFHQ_ONE_FILE.sources[0].url,
            synthesis_url=_page(FFHQ_SYNTHESIS),
            mapping_url=_page(FFHQ_MAPPING),
            cache=f"{cache_dir}{os.sep}",
            blob=FFHQ_SYNTHESIS.git_blob_sha1,
        )
    )


def _page(file: RemoteFile) -> str:
    """What a browser is given to fetch a file from Drive."""
    return f"https://drive.google.com/file/d/{file.sources[0].url.removeprefix('drive:')}"


def _check_one_file(path: Path) -> None:
    _require_ffhq(read_networks(path), path)


def _check_synthesis(path: Path) -> None:
    read_networks(path)


def _check_mapping(path: Path) -> None:
    read_mapping(path)


def _require_ffhq(networks: Networks, path: Path) -> Networks:
    """Raises: FormatError naming the first key in which the networks are not those of FFHQ at 1024
    pixels.
    """
    with torch.device("meta"):
        wanted = {"synthesis": G_synthesis(), "mapping": G_mapping()}
    for part, network in wanted.items():
        found = getattr(networks, part)
        if found is None:
            raise FormatError(f"{path} has no {part} network")
        shapes = {key: tuple(tensor.shape) for key, tensor in found.state_dict().items()}
        for key, tensor in network.state_dict().items():
            if shapes.get(key) != tuple(tensor.shape):
                raise FormatError(
                    f"{path} is not the FFHQ generator of 1024 pixels: {part} {key} is "
                    f"{shapes.get(key, 'missing')}, not {tuple(tensor.shape)}"
                )
    return networks


def _read_ffhq_one_file(path: Path) -> Networks:
    """Load it. No checksum of it is public: that of the first good file is printed and kept, and
    held against it from then on.

    Raises: FormatError where the file has changed since.
    """
    kept = path.with_name(path.name + ".sha256")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if kept.is_file() and kept.read_text().split()[:1] != [digest]:
        raise FormatError(
            f"{path} has changed since it was first loaded (its SHA-256 is no longer that in "
            f"{kept.name}): delete both, then run again"
        )
    networks = _require_ffhq(read_networks(path), path)
    if not kept.is_file():
        print(f"SHA-256 of {path}: {digest}", file=sys.stderr)
        with atomic_write(kept) as file:
            file.write(f"{digest}  {path.name}\n".encode())
    return networks


def fit_prior(
    mapping: G_mapping, draws: int = 1_000_000, chunk: int = 10_000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """mean and unbiased std, each (d,), of LeakyReLU(5)(mapping(z)) over `draws` z ~ N(0, I).

    LeakyReLU(5) undoes the mapping's last LeakyReLU(0.2), so that what is fitted is nearly
    Gaussian. Chunks of a multiple of 16 rows give the same z as one draw of all; sums are kept in
    float64.
    """
    random = torch.Generator().manual_seed(seed)
    total = torch.zeros(mapping.dlatent_size, dtype=torch.float64)
    squares = torch.zeros_like(total)
    bar = tqdm(total=draws, unit="latent", unit_scale=True, desc="prior fit", disable=None)
    with torch.no_grad(), bar:
        for first in range(0, draws, chunk):
            rows = min(chunk, draws - first)
            z = torch.randn(rows, mapping.dlatent_size, generator=random)
            x = F.leaky_relu(mapping(z), 1 / LEAKY_SLOPE).double()  # (rows, d)
            total += x.sum(0)
            squares += x.square().sum(0)
            bar.update(rows)
    mean = total / draws
    std = ((squares - draws * mean.square()) / (draws - 1)).sqrt()
    return mean.float(), std.float()


def tensors_sha256(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values of the tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().cpu().float().contiguous()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def cached_prior(mapping: G_mapping, cache_dir: Path) -> tuple[Tensor, Tensor]:
    """The prior fit of a mapping network, from `cache_dir` under its SHA-256, or computed and kept
    there.
    """
    path = cache_dir / f"gaussian_fit_{tensors_sha256(mapping.state_dict())}.pt"
    shape = (mapping.dlatent_size,)
    try:
        kept = torch.load(path, weights_only=True)
        if kept["mean"].shape == kept["std"].shape == shape:
            return kept["mean"], kept["std"]
    except Exception:  # absent, or damaged in whatever way: computed again
        pass
    mean, std = fit_prior(mapping)
    with atomic_write(path) as file:
        torch.save({"mean": mean, "std": std}, file)
    return mean, std
