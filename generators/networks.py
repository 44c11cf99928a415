"""From the tensors of a file to networks in float32: what the readers of all formats share.

A stranger's file may hold anything in any place: it is checked here before it is used, and takes no
memory that the file does not. A UserError raised here is worded to follow the name of the file.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cli.errors import UserError
from generators.safe_loading import entries
from generators.stylegan2 import StyleGAN2Synthesis
from generators.stylegan3 import StyleGAN3Synthesis
from generators.stylegan3_layout import layer_layouts
from stylegan import Blur, G_mapping, G_synthesis

State = dict[str, Tensor]
MOST_TAPS = 96  # of a filter of StyleGAN3; published networks have 24
Synthesis = G_synthesis | StyleGAN2Synthesis | StyleGAN3Synthesis


@dataclass
class Networks:
    """What a weight file holds: networks in float32, the prior where the file has it, and what it
    says of itself.
    """

    synthesis: Synthesis
    mapping: G_mapping | None
    prior: tuple[Tensor, Tensor] | None = None  # mean, std, each (d,)
    about: dict = field(default_factory=dict)
    origin: str = ""  # the name of its format
    labels: int = 0  # of a conditional generator, which has a mapping network for each of them
    mapping_of: Callable[[int], G_mapping] | None = None

    def choose_label(self, label: int | None) -> None:
        """Take one label for good; None takes the only one there is. A file that was converted for
        one label has that one. Raises: UserError, worded to follow the name of the file, where it
        has no such label, or several and None was given.
        """
        if label is None and self.labels == 1:
            label = 0
        taken = str(self.about.get("label")).partition(",")[0]
        if self.labels == 0 and (label is None or str(label) == taken):
            return
        if self.mapping_of is None:
            raise UserError(
                f"has no labels, so not {label}: leave -label out, or give the file that has them"
            )
        if label is None or not 0 <= label < self.labels:
            asked = "" if label is None else f", so not {label}"
            raise UserError(
                f"was trained with {self.labels} labels{asked}: choose one, from -label 0 to "
                f"-label {self.labels - 1}"
            )
        self.mapping = self.mapping_of(label)
        self.about = self.about | {"label": f"{label}, of {self.labels}"}
        self.labels, self.mapping_of = 0, None


def tensors(content: object) -> State:
    """`entries` whose values are all tensors of stored numbers. Raises: UserError."""
    state = entries(content)
    for key, value in state.items():
        if not isinstance(value, Tensor) or not _is_plain(value):
            raise UserError(f"does not fit: {key} is no tensor of stored numbers")
    return state


def _is_plain(tensor: Tensor) -> bool:
    """Whether all its numbers lie in memory: a view may claim any size, and take it when copied."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    claimed = tensor.numel() * tensor.element_size()
    stored = max(tensor.untyped_storage().nbytes(), 1 << 20)  # small ones may be views
    return claimed <= stored and not tensor.is_quantized and not tensor.is_complex()


def require_settings(settings: dict, required: dict) -> None:
    """Raises: UserError naming one of `settings` that is not as `required`: another network."""
    for name, value in required.items():
        found = settings.get(name, value)
        found = list(found) if isinstance(found, tuple) else found
        if not isinstance(found, (bool, int, float, str, list)) or found != value:
            raise UserError(f"was built with {name} = {worded(found)}: only {value!r} is read")


def worded(value: object) -> str:
    """A value of a stranger's file in one line."""
    try:
        return " ".join(repr(value).split())
    except Exception:  # nested without end, a number of many thousand digits, an odd Namespace
        return f"some {type(value).__name__}"


def read_prior(content: object, width: int) -> tuple[Tensor, Tensor]:
    """Mean and std, each (width,), of {"mean": …, "std": …}. Raises: UserError."""
    fit = tensors(content)
    if not all(name in fit and fit[name].shape == (width,) for name in ("mean", "std")):
        raise UserError(f"has a gaussian_fit that is not a mean and a std of shape ({width},)")
    return fit["mean"].float(), fit["std"].float()


def renamed(state: State, table: tuple[tuple[str, str], ...]) -> State:
    """`state` under other names: those of the first (pattern, name) whose pattern matches a key
    whole; "" drops a tensor. Raises: UserError naming a key that none matches.
    """
    found = {}
    for key, tensor in state.items():
        matches = ((re.fullmatch(pattern, key), name) for pattern, name in table)
        match, name = next((pair for pair in matches if pair[0]), (None, ""))
        if match is None:
            raise UserError(f"has the unknown key {key}: only default settings are read")
        if name:
            found[match.expand(name)] = tensor
    return found


def build_networks(state: State, config: dict | None = None, about: dict | None = None) -> Networks:
    """Both networks, of one state dict under PULSE's names. Raises: UserError."""
    mapping = {key: tensor for key, tensor in state.items() if key.startswith("dense")}
    synthesis = {key: tensor for key, tensor in state.items() if key not in mapping}
    return Networks(build_synthesis(synthesis, config), build_mapping(mapping), about=about or {})


def build_synthesis(content: object, config: dict | None = None) -> G_synthesis:
    """The synthesis network of a state dict under PULSE's names, loaded strictly.

    config: arguments of G_synthesis that the file has; the others are derived from the tensors. The
    blur kernels, which are constant, may be missing. Raises: UserError.
    """
    for name, value in (config or {}).items():
        if not isinstance(value, (int, float)):
            raise UserError(f"has an unusable config ({name} is {worded(value)})")
    state = dict(tensors(content))
    sizes = {}
    for key, tensor in state.items():
        if match := re.fullmatch(r"blocks\.(\d{1,9})x\1\.epi2\.noise\.weight", key):
            sizes[int(match[1])] = tensor.numel()
    style = state.get("blocks.4x4.epi1.style_mod.lin.weight")
    if not sizes or style is None or style.ndim != 2:
        raise UserError("holds no whole synthesis network: blocks.4x4 is missing")
    for key in [key for key in state if key.endswith(".conv0_up.weight")]:
        state.setdefault(key.replace(".weight", ".intermediate.kernel"), Blur().kernel)
    # channels are min(base / 2^(k-1), max) at 2^k pixels: the largest product will do as the base
    derived = {
        "fmap_base": max(channels * size // 2 for size, channels in sizes.items()),
        "fmap_max": max(sizes.values()),
        "dlatent_size": style.shape[1],
        "resolution": max(sizes),
    }
    return load_strictly(G_synthesis, derived | (config or {}), state)


def build_later_family(content: object, config: dict) -> Synthesis:
    """The synthesis network of StyleGAN2 or 3, from a state dict under NVIDIA's names and
    config["family"] with its constructor's arguments; loaded strictly. Raises: UserError.
    """
    for name, value in config.items():
        plain = value if isinstance(value, (list, tuple)) else [value]
        if not all(each is None or isinstance(each, (int, float, str)) for each in plain):
            raise UserError(f"has an unusable config ({name} is {worded(value)})")
    state, arguments = tensors(content), dict(config)
    if config["family"] in ("stylegan3-t", "stylegan3-r"):
        return build_stylegan3(state, arguments)
    if arguments.pop("family") == "stylegan2":
        return load_strictly(StyleGAN2Synthesis, arguments, state)
    raise UserError(f"is of the family {worded(config['family'])}, which is not known")


def build_stylegan3(state: State, config: dict) -> StyleGAN3Synthesis:
    """The synthesis network of StyleGAN3, loaded strictly. Raises: UserError."""
    names = inspect.signature(layer_layouts).parameters
    try:
        layouts = layer_layouts(**{name: config[name] for name in names})
        most = max(max(layout.up_taps, layout.down_taps) for layout in layouts)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"has an unusable config ({error})") from None
    if most > MOST_TAPS:  # computed, they would fill the memory
        raise UserError(f"has an unusable config (filters of {most} taps)")
    return load_strictly(StyleGAN3Synthesis, config, state)


def build_mapping(content: object) -> G_mapping:
    """The mapping network of a state dict, whose width and depth its tensors tell, loaded strictly.
    Raises: UserError.
    """
    state = tensors(content)
    first = state.get("dense0.weight")
    if first is None or first.ndim != 2:
        raise UserError("holds no whole mapping network: dense0.weight is missing")
    depth = len([key for key in state if re.fullmatch(r"dense\d+\.weight", key)])
    last = state.get(f"dense{depth - 1}.weight", first)
    if last.ndim != 2:
        raise UserError(f"does not fit: dense{depth - 1}.weight is no matrix")
    config = {"dlatent_size": last.shape[0], "num_layers": depth}
    config |= {"latent_size": first.shape[1], "hidden_size": first.shape[0]}
    return load_strictly(G_mapping, config, state)


def load_strictly(network_class, config: dict, state: State):
    """A network of `network_class` with `state`, as float32; every key and shape must be right.

    It takes no memory before they are. Raises: UserError naming the first key that differs, or
    what is wrong with `config`.
    """
    try:
        with torch.device("meta"):
            network = network_class(**config)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"has an unusable config ({reason})") from None
    wanted = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    for key, shape in wanted.items():
        if key not in state:
            raise UserError(f"does not fit: {key} is missing")
        if (found := tuple(state[key].shape)) != shape:
            raise UserError(f"does not fit: {key} is {found}, not {shape}")
    if unknown := next((key for key in state if key not in wanted), None):
        raise UserError(f"does not fit: {unknown} is unknown")
    values = {key: tensor.detach().float().contiguous() for key, tensor in state.items()}
    network.load_state_dict(values, strict=True, assign=True)
    return network
