"""Weight files of StyleGAN1 generators, read safely and told apart by what is in them, under this
project's names.

Read here: this project's one file; PULSE's `synthesis.pt` with `mapping.pt` beside it (or the
folder of both); lernapparat's `.for_g_all.pt`. Nothing in a file is ever run: torch.load with
weights_only=True.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from stylegan import Blur, G_mapping, G_synthesis

FORMAT = "pulse-generator-1"
State = dict[str, Tensor]


class FormatError(ValueError):
    """A file that holds no generator that can be used; the message is one sentence that names the
    file.
    """


@dataclass
class Networks:
    """What a weight file holds: networks in float32, the prior where the file has it, and what it
    says of itself.
    """

    synthesis: G_synthesis
    mapping: G_mapping | None
    prior: tuple[Tensor, Tensor] | None = None  # mean, std, each (d,)
    about: dict = field(default_factory=dict)


def read_networks(path: Path, mapping_path: Path | None = None) -> Networks:
    """The networks of a file, or of a folder or pair in PULSE's format, strictly loaded.

    The mapping of a `synthesis.pt` is `mapping_path`, or else what lies beside it. Raises:
    FormatError, one sentence, for what is no such file, is damaged, or does not fit: then naming
    the first key that differs.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "synthesis.pt"
    content = _load(path)
    if content.get("format") == FORMAT:
        return _from_one_file(content, path)
    if any(key.startswith("g_synthesis.") for key in content):
        return _from_lernapparat(content, path)
    if "torgb.weight" in content:
        mapping_path = mapping_path or _mapping_beside(path)
        mapping = None if mapping_path is None else read_mapping(mapping_path)
        return _fitting(Networks(build_synthesis(content, path), mapping), path)
    if "dense0.weight" in content:
        raise FormatError(
            f"{path} holds a mapping network: give its synthesis.pt, with the mapping beside it"
        )
    raise FormatError(
        f"{path} holds no generator in a known format (its first key is "
        f"{next(iter(content), 'none')!r}): give a one-file generator, PULSE's synthesis.pt, or "
        f"lernapparat's .for_g_all.pt"
    )


def _load(path: Path) -> dict:
    if not path.exists():
        raise FormatError(f"{path} does not exist: give the file of a generator")
    if not path.is_file():
        raise FormatError(f"{path} is not a file: give the file of a generator")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other versions
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever a damaged or hostile file provokes
        reason = str(error).strip().split("\n")[0][:120]
        raise FormatError(
            f"{path} cannot be read as PyTorch weights ({reason}): if damaged, fetch it again"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise FormatError(f"{path} holds no dictionary of tensors: give the file of a generator")
    return content


def _from_one_file(content: dict, path: Path) -> Networks:
    config, fit = content.get("config"), content.get("gaussian_fit")
    if not isinstance(config, dict) or "resolution" not in config:
        raise FormatError(f"{path} lacks its config: it is no whole {FORMAT} file")
    try:
        synthesis = G_synthesis(
            dlatent_size=config["dlatent_size"],
            resolution=config["resolution"],
            fmap_base=config["fmap_base"],
            fmap_max=config["fmap_max"],
            fmap_decay=config.get("fmap_decay", 1.0),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} has an unusable config ({error})") from None
    load_strictly(synthesis, content.get("synthesis"), path)
    mapping = content.get("mapping")
    prior = None
    if fit is not None:
        shape = (synthesis.dlatent_size,)
        if not all(
            isinstance(fit.get(name), Tensor) and fit[name].shape == shape
            for name in ("mean", "std")
        ):
            raise FormatError(f"{path}: its gaussian_fit is not a mean and a std of shape {shape}")
        prior = fit["mean"].float(), fit["std"].float()
    networks = Networks(
        synthesis,
        None if mapping is None else build_mapping(mapping, path),
        prior,
        dict(content.get("about") or {}),
    )
    return _fitting(networks, path)


def _from_lernapparat(content: dict, path: Path) -> Networks:
    def part(prefix: str) -> State:
        names = ((key.removeprefix(prefix), key) for key in content if key.startswith(prefix))
        return {re.sub(r"(\.epi\d)\.top_epi\.", r"\1.", name): content[key] for name, key in names}

    synthesis, mapping = part("g_synthesis."), part("g_mapping.")
    for key in list(synthesis):
        if key.endswith(".conv0_up.weight"):  # the file leaves the constant blur out
            blur = key.replace(".weight", ".intermediate.kernel")
            synthesis.setdefault(blur, Blur().kernel)
    networks = Networks(build_synthesis(synthesis, path), build_mapping(mapping, path))
    return _fitting(networks, path)


def _mapping_beside(path: Path) -> Path | None:
    """`mapping.pt` beside `synthesis.pt`; the 2020 release put a checksum before each name."""
    candidates = [path.with_name("mapping.pt")]
    if "synthesis" in path.name:
        candidates.insert(0, path.with_name(path.name.replace("synthesis", "mapping")))
    prefixed = list(path.parent.glob("*_mapping.pt"))
    if len(prefixed) == 1:
        candidates += prefixed
    return next((file for file in candidates if file.is_file()), None)


def read_mapping(path: Path) -> G_mapping:
    """The network of a `mapping.pt`. Raises: FormatError."""
    return build_mapping(_load(path), path)


def _fitting(networks: Networks, path: Path) -> Networks:
    """Raises: FormatError where mapping and synthesis are not of one latent width."""
    width = networks.synthesis.dlatent_size
    if networks.mapping is not None and networks.mapping.dlatent_size != width:
        raise FormatError(
            f"{path} takes latents of {width} numbers, but its mapping network makes "
            f"{networks.mapping.dlatent_size}: they do not belong together"
        )
    return networks


def build_synthesis(state: State, path: Path) -> G_synthesis:
    """The synthesis network whose sizes the tensors themselves tell, loaded strictly.

    Raises: FormatError.
    """
    sizes = {}
    for key, tensor in state.items():
        if match := re.fullmatch(r"blocks\.(\d+)x\1\.epi2\.noise\.weight", key):
            sizes[int(match[1])] = len(tensor)
    style = state.get("blocks.4x4.epi1.style_mod.lin.weight")
    if not sizes or not isinstance(style, Tensor) or style.ndim != 2:
        raise FormatError(f"{path} holds no whole synthesis network: blocks.4x4 is missing")
    # channels are min(base / 2^(k-1), max) at 2^k pixels: the largest product is the base, or as
    # good
    base = max(channels * size // 2 for size, channels in sizes.items())
    try:
        network = G_synthesis(
            dlatent_size=style.shape[1],
            resolution=max(sizes),
            fmap_base=base,
            fmap_max=max(sizes.values()),
        )
    except ValueError as error:
        raise FormatError(f"{path}: {error}") from None
    load_strictly(network, state, path)
    return network


def build_mapping(state: State, path: Path) -> G_mapping:
    """The mapping network whose width and depth the tensors themselves tell, loaded strictly.

    Raises: FormatError.
    """
    depth = len([key for key in state if re.fullmatch(r"dense\d+\.weight", key)])
    first = state.get("dense0.weight")
    if not isinstance(first, Tensor) or first.ndim != 2:
        raise FormatError(f"{path} holds no whole mapping network: dense0.weight is missing")
    network = G_mapping(dlatent_size=first.shape[1], num_layers=depth)
    load_strictly(network, state, path)
    return network


def load_strictly(network: torch.nn.Module, state: State | None, path: Path) -> None:
    """Copy `state` into `network` as float32; every key and shape must be right.

    Raises: FormatError naming the first key that differs.
    """
    wanted = network.state_dict()
    state = state if isinstance(state, dict) else {}
    for key, tensor in wanted.items():
        if not isinstance(state.get(key), Tensor):
            raise FormatError(f"{path} does not fit: {key} is missing")
        if state[key].shape != tensor.shape:
            raise FormatError(
                f"{path} does not fit: {key} is {tuple(state[key].shape)}, "
                f"not {tuple(tensor.shape)}"
            )
    if unknown := next((key for key in state if key not in wanted), None):
        raise FormatError(f"{path} does not fit: {unknown} is unknown")
    network.load_state_dict({key: tensor.float() for key, tensor in state.items()}, strict=True)
