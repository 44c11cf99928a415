"""Weight files of StyleGAN1 generators, read safely and told apart by what is in them, never by
name.

Read here: this project's one file; PULSE's `synthesis.pt` with `mapping.pt` beside it (or the
folder of both); lernapparat's `.for_g_all.pt`; NVIDIA's pickles; genforce's `.pth`. Nothing in a
file is ever run: torch.load with weights_only=True, and the unpickler of nvidia.py.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from cli.errors import UserError
from generators import genforce, nvidia
from generators.genforce import without_module
from stylegan import Blur, G_mapping, G_synthesis

FORMAT = "pulse-generator-1"
# How a file begins that torch.save wrote before PyTorch 1.6: a pickle of its magic number.
TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
State = dict[str, Tensor]


@dataclass
class Networks:
    """What a weight file holds: networks in float32, the prior where the file has it, and what it
    says of itself.
    """

    synthesis: G_synthesis
    mapping: G_mapping | None
    prior: tuple[Tensor, Tensor] | None = None  # mean, std, each (d,)
    about: dict = field(default_factory=dict)
    origin: str = ""  # the name of its format


def read_networks(path: Path, mapping_path: Path | None = None) -> Networks:
    """The networks of a file, or of a folder or pair in PULSE's format, strictly loaded.

    The mapping of a `synthesis.pt` is `mapping_path`, or else what lies beside it. Raises:
    UserError, one sentence, for what is no such file, is damaged, or does not fit: then naming
    the first key that differs.
    """
    path = Path(path)
    try:
        if path.is_dir():
            path = path / "synthesis.pt"
        if _is_foreign_pickle(path):
            networks = _from_nvidia(path)
        else:
            networks = _from_dict(_load(path), path, mapping_path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror}): give another") from None
    except Exception as error:  # a stranger's file may hold anything in any place
        raise UserError(f"{path} is damaged, or no generator ({error}): fetch it again") from None
    width = networks.synthesis.dlatent_size
    if networks.mapping is not None and networks.mapping.dlatent_size != width:
        raise UserError(
            f"{path} takes latents of {width} numbers, but its mapping network makes "
            f"{networks.mapping.dlatent_size}: they do not belong together"
        )
    return networks


def _from_dict(content: dict, path: Path, mapping_path: Path | None) -> Networks:
    """What torch.load gave, told apart by its keys."""
    if content.get("format") == FORMAT:
        return _from_one_file(content, path)
    try:
        if (state := genforce.generator_state(content)) is not None:
            synthesis, mapping = genforce.states(state)
            return Networks(
                build_synthesis(_with_blur(synthesis), path),
                build_mapping(mapping, path),
                origin="genforce",
            )
    except ValueError as error:
        words = str(error)
        raise UserError(words if isinstance(error, UserError) else f"{path} {words}") from None
    content = without_module(content)
    if any(key.startswith("g_synthesis.") for key in content):
        return _from_lernapparat(content, path)
    if "torgb.weight" in content:
        mapping_path = mapping_path or _mapping_beside(path)
        mapping = None if mapping_path is None else read_mapping(mapping_path)
        return Networks(build_synthesis(content, path), mapping, origin="PULSE")
    if "dense0.weight" in content:
        raise UserError(
            f"{path} holds a mapping network: give its synthesis.pt, with the mapping beside it"
        )
    raise UserError(
        f"{path} holds no generator in a known format (its first key is "
        f"{next(iter(content), 'none')!r}): give one of those that the README lists"
    )


def _is_foreign_pickle(path: Path) -> bool:
    """A bare pickle that torch.save did not write: of formats with pickles only NVIDIA's is one."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(len(TORCH_LEGACY))
    return start[:1] == b"\x80" and start != TORCH_LEGACY


def _load(path: Path) -> dict:
    if not path.exists():
        raise UserError(f"{path} does not exist: give the file of a generator")
    if not path.is_file():
        raise UserError(f"{path} is not a file: give the file of a generator")
    try:
        require_uncompressed(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other versions
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch.load raises whatever a damaged or hostile file provokes
        if unsafe := re.search(r"GLOBAL (\S+)", str(error)):  # else it says how to run the code
            raise UserError(
                f"{path} cannot be read: it asks for {unsafe[1]}, which no generator needs"
            ) from None
        reason = str(error).strip().split("\n")[0][:120]
        raise UserError(
            f"{path} cannot be read as PyTorch weights ({reason}): if damaged, fetch it again"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path} holds no dictionary of tensors: give the file of a generator")
    return content


def require_uncompressed(path: Path) -> None:
    """Raises: UserError for a zip archive that would fill the memory; torch.save compresses
    nothing.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > path.stat().st_size:
            raise UserError(
                f"{path} would unpack to {claimed / 1e6:.0f} MB, more than it has: not opened"
            )


def _from_one_file(content: dict, path: Path) -> Networks:
    config, fit = content.get("config"), content.get("gaussian_fit")
    known = ("resolution", "fmap_base", "fmap_max", "dlatent_size", "fmap_decay")
    if not isinstance(config, dict) or not all(name in config for name in known[:4]):
        raise UserError(f"{path} lacks its config: it is no whole {FORMAT} file")
    config = {name: config[name] for name in known if name in config}
    state = without_module(content.get("synthesis") or {})
    synthesis = load_strictly(G_synthesis, config, state, path)
    mapping = content.get("mapping")
    prior = None
    if fit is not None:
        shape = (synthesis.dlatent_size,)
        if not isinstance(fit, dict) or not all(
            isinstance(fit.get(name), Tensor) and fit[name].shape == shape
            for name in ("mean", "std")
        ):
            raise UserError(f"{path}: its gaussian_fit is not a mean and a std of shape {shape}")
        prior = fit["mean"].float(), fit["std"].float()
    return Networks(
        synthesis,
        None if mapping is None else build_mapping(without_module(mapping), path),
        prior,
        dict(content.get("about") or {}),
        origin="one file",
    )


def _from_lernapparat(content: dict, path: Path) -> Networks:
    def part(prefix: str) -> State:
        names = ((key.removeprefix(prefix), key) for key in content if key.startswith(prefix))
        return {re.sub(r"(\.epi\d)\.top_epi\.", r"\1.", name): content[key] for name, key in names}

    synthesis = _with_blur(part("g_synthesis."))
    mapping = build_mapping(part("g_mapping."), path)
    return Networks(build_synthesis(synthesis, path), mapping, origin="lernapparat")


def _with_blur(state: State) -> State:
    """With the constant blur kernels, which other formats leave out."""
    for key in list(state):
        if key.endswith(".conv0_up.weight"):
            blur = key.replace(".weight", ".intermediate.kernel")
            state.setdefault(blur, Blur().kernel)
    return state


def _from_nvidia(path: Path) -> Networks:
    try:
        synthesis, mapping, settings = nvidia.states(nvidia.read_network(path))
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    channels = {
        key: settings[key] for key in ("fmap_base", "fmap_max", "fmap_decay") if key in settings
    }
    about = {"licence": "NVIDIA's published networks are CC BY-NC 4.0"}
    return Networks(
        build_synthesis(_with_blur(synthesis), path, **channels),
        build_mapping(mapping, path),
        about=about,
        origin="NVIDIA pickle",
    )


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
    """The network of a `mapping.pt`. Raises: UserError."""
    return build_mapping(without_module(_load(path)), path)


def build_synthesis(state: State, path: Path, **channels) -> G_synthesis:
    """The synthesis network whose sizes the tensors themselves tell, loaded strictly.

    `channels`: fmap_base, fmap_max and fmap_decay, where the file has them.

    Raises: UserError.
    """
    sizes = {}
    for key, tensor in state.items():
        if match := re.fullmatch(r"blocks\.(\d+)x\1\.epi2\.noise\.weight", key):
            sizes[int(match[1])] = len(tensor)
    style = state.get("blocks.4x4.epi1.style_mod.lin.weight")
    if not sizes or not isinstance(style, Tensor) or style.ndim != 2:
        raise UserError(f"{path} holds no whole synthesis network: blocks.4x4 is missing")
    # channels are min(base / 2^(k-1), max) at 2^k pixels: the largest product is the base, or as
    # good
    base = max(channels * size // 2 for size, channels in sizes.items())
    config = {"fmap_base": base, "fmap_max": max(sizes.values()), **channels}
    config |= {"dlatent_size": style.shape[1], "resolution": max(sizes)}
    return load_strictly(G_synthesis, config, state, path)


def build_mapping(state: State, path: Path) -> G_mapping:
    """The mapping network whose width and depth the tensors themselves tell, loaded strictly.

    Raises: UserError.
    """
    depth = len([key for key in state if re.fullmatch(r"dense\d+\.weight", key)])
    first = state.get("dense0.weight")
    if not isinstance(first, Tensor) or first.ndim != 2:
        raise UserError(f"{path} holds no whole mapping network: dense0.weight is missing")
    config = {"dlatent_size": first.shape[1], "num_layers": depth}
    return load_strictly(G_mapping, config, state, path)


def _is_plain(tensor: Tensor) -> bool:
    """Whether all its numbers lie in memory: a view may claim any size, and take it when copied."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    claimed = tensor.numel() * tensor.element_size()
    return claimed <= max(tensor.untyped_storage().nbytes(), 1 << 20)  # small ones may be views


def load_strictly(network_class, config: dict, state: State, path: Path):
    """A network of `network_class` with the tensors of `state`, as float32; every key and shape
    must be right.

    It takes no memory before they are. Raises: UserError naming the first key that differs, or
    what is wrong with `config`.
    """
    try:
        with torch.device("meta"):
            network = network_class(**config)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{path} has an unusable config ({reason})") from None
    wanted = network.state_dict()
    for key, tensor in wanted.items():
        if not isinstance(state.get(key), Tensor):
            raise UserError(f"{path} does not fit: {key} is missing")
        if state[key].shape != tensor.shape:
            raise UserError(
                f"{path} does not fit: {key} is {tuple(state[key].shape)}, "
                f"not {tuple(tensor.shape)}"
            )
        if not _is_plain(state[key]):
            raise UserError(f"{path} does not fit: {key} is no tensor of stored numbers")
    if unknown := next((key for key in state if key not in wanted), None):
        raise UserError(f"{path} does not fit: {unknown} is unknown")
    values = {key: tensor.detach().float().contiguous() for key, tensor in state.items()}
    network.load_state_dict(values, strict=True, assign=True)
    return network
