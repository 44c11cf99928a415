"""NVIDIA's PyTorch pickles (`*.pkl` of stylegan2-ada-pytorch and stylegan3).

Such a file is a pickle of a dictionary: G and D as they were trained, G_ema, the averaged
generator, which is the one that is used, and settings of the training. Settings of the network are
those of the objects in it and of the shapes of its tensors; one that makes another network is
refused by name, and so is a file that lacks one.
"""

from __future__ import annotations

from cli.errors import UserError
from generators.networks import Networks, require_settings, worded
from generators.nvidia_names import build_stylegan2
from generators.persistent import Network


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
    raise UserError("holds a network that is no StyleGAN2: its synthesis has no b4")


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
    _require(network, img_resolution=networks.synthesis.resolution)
    noisy = [layer for layer in convolutions if "use_noise" in layer.state]
    for layer in noisy:
        _require(layer, use_noise=networks.synthesis.config["use_noise"])
    return networks


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
