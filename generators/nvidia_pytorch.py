"""NVIDIA's PyTorch pickles (`*.pkl` of stylegan2-ada-pytorch and stylegan3).

Such a file is a pickle of a dictionary: G and D as they were trained, G_ema, the averaged
generator, which is the one that is used, and settings of the training. Settings of the network are
those of the objects in it and of the shapes of its tensors; one that makes another network is
refused by name, and so is a file that lacks one.
"""

from __future__ import annotations

import math

from cli.errors import UserError
from generators.networks import (
    Networks,
    build_stylegan3,
    require_settings,
    worded,
)
from generators.nvidia_names import build_stylegan2, split, with_mapping
from generators.persistent import Network
from generators.stylegan3_layout import channel_settings, require_layout


def _generator(content: dict) -> object:
    found = content.get("pickle")
    return found.get("G_ema") if isinstance(found, dict) else found


def recognises(content: dict) -> bool:
    found = content.get("pickle")
    values = found.values() if isinstance(found, dict) else [found]
    return any(isinstance(value, Network) for value in values)


def read(content: dict) -> Networks:
    """Raises: UserError, worded to follow the name of the file."""
    network = _generator(content)
    if not isinstance(network, Network):
        raise UserError("holds no G_ema, the averaged generator: give a file that does")
    content.clear()
    layers = network.layers()
    _require(network, img_channels=3)
    for name, layer in layers.items():
        if name.startswith("mapping.fc"):
            _require(layer, activation="lrelu", bias_gain=0.01)
        elif name.endswith(".affine") or name == "mapping.embed":
            _require(layer, activation="linear", bias_gain=1)
    if "synthesis.b4" in layers:
        return _stylegan2(network, layers)
    if "synthesis.input" in layers:
        return _stylegan3(network, layers)
    raise UserError("holds a network that is neither a StyleGAN2 nor a StyleGAN3")


def _stylegan2(network: Network, layers: dict[str, Network]) -> Networks:
    blocks, convolutions = [], []
    for name, layer in layers.items():
        below = name.split(".")[2:]
        if name.startswith("synthesis.b") and not below:
            blocks.append(layer)
        elif below == ["torgb"] or below in (["conv0"], ["conv1"]):
            convolutions.append(layer)
            if below != ["torgb"]:
                _require(layer, activation="lrelu", up=2 if below == ["conv0"] else 1)
    networks = build_stylegan2(
        network.tensors(),
        conv_clamp=_shared(convolutions, "conv_clamp"),
        architecture=_shared(blocks, "architecture"),
    )
    sizes = list(networks.synthesis.blocks)
    _require(network, img_resolution=sizes[-1])
    for name in ("b4.conv1", *(f"b{size}.conv{i}" for size in sizes[1:] for i in (0, 1))):
        _require(layers[f"synthesis.{name}"], use_noise=networks.synthesis.config["use_noise"])
    return networks


def _stylegan3(network: Network, layers: dict[str, Network]) -> Networks:
    synthesis = layers["synthesis"]
    names = synthesis.setting("layer_names")
    if not isinstance(names, list) or not all(f"synthesis.{name}" in layers for name in names):
        raise UserError("lacks a layer that its synthesis.layer_names names")
    inner = {name: layers[f"synthesis.{name}"] for name in ("input", *names)}
    convolutions = [inner[name] for name in names]
    depth = _number(synthesis, "num_layers")
    if len(names) != depth + 1 or depth < 1:
        raise UserError(f"was built with num_layers = {depth}, and holds {len(names)} layers")
    clamp = _shared(convolutions, "conv_clamp")
    state, mapping = split(network.tensors())
    filters = state.get(f"{names[0]}.down_filter")
    channels, cutoffs = (
        [_number(layer, name) for layer in convolutions[:-1]]
        for name in ("out_channels", "out_cutoff")
    )
    channel_base, channel_max = channel_settings(channels, cutoffs)
    radial = filters is not None and filters.ndim == 2
    config = {
        "resolution": _number(network, "img_resolution"),
        "family": "stylegan3-r" if radial else "stylegan3-t",
        "dlatent_size": _number(network, "w_dim"),
        "depth": depth,
        "num_critical": _number(synthesis, "num_critical"),
        "margin_size": _number(synthesis, "margin_size"),
        "output_scale": _number(synthesis, "output_scale"),
        "conv_clamp": math.inf if clamp is None else clamp,
        "channel_base": channel_base,
        "channel_max": channel_max,
    }
    networks = with_mapping(build_stylegan3(state, config), mapping)
    # sizes, rates, bands, kernels and paddings: what was computed is what the file says
    needed = {name: ["up_factor", "down_factor", "padding"] for name in names}
    needed["input"] = ["size", "sampling_rate", "bandwidth"]
    for name, keys in needed.items():
        for key in keys:
            inner[name].setting(key)
    require_layout(
        networks.synthesis.layouts,
        {name: {key: layer.setting(key) for key in layer.state} for name, layer in inner.items()},
    )
    return networks


def _number(layer: Network, name: str) -> float:
    """A setting that is a number."""
    value = layer.setting(name)
    if not isinstance(value, (int, float)) or not -1e9 < value < 1e9:
        raise UserError(f"was built with {name} = {worded(value)}: only a number is read")
    return value


def _require(layer: Network, **required) -> None:
    """Raises: UserError where a setting is another, or missing."""
    require_settings({name: layer.setting(name) for name in required}, required)


def _shared(layers: list[Network], name: str) -> object:
    """A setting that all these layers must have in common. Raises: UserError."""
    values = [layer.setting(name) for layer in layers]
    for value in values:
        if not (value is None or isinstance(value, (int, float, str))) or value != values[0]:
            raise UserError(
                f"was built with {name} = {worded(value)} in one layer and {worded(values[0])} in "
                "another: only one for all is read"
            )
    if not values:
        raise UserError(f"lacks the setting {name}: it holds no layers")
    return values[0]
