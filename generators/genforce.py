"""genforce's StyleGAN checkpoints (`.pth`): their keys become PULSE's.

The tensors are stored as NVIDIA's are, in PyTorch's layout; only names change. What other settings
than genforce's defaults (fused scale `auto`, no final tanh, a constant input) leave in a file is
refused by name.
"""

from __future__ import annotations

from cli.errors import UserError
from generators.networks import Networks, build_networks, renamed, require_settings, tensors

# Settings that a checkpoint may carry beside its tensors, and what they must be.
REQUIRED = {"fused_scale": "auto", "final_tanh": False, "const_input": True}

# Its names, and PULSE's, with the number of the layer in place of its block; "" drops a tensor.
NAMES = (
    (r"(.+\.)?(lod|w_avg|apply_noise\.noise)", ""),
    (r"mapping\.(dense\d+\.(weight|bias))", r"\1"),
    (r"synthesis\.output\d\.(weight|bias)", r"torgb.\1"),  # the last, of the full size, remains
    (r"synthesis\.layer0\.(const|bias)", r"blocks.4x4.\1"),
    (r"synthesis\.layer1\.(weight|bias)", r"blocks.4x4.conv.\1"),
    (r"synthesis\.layer(\d?[02468])\.(weight|bias)", r"\1.conv0_up.\2"),
    (r"synthesis\.layer(\d?[13579])\.(weight|bias)", r"\1.conv1.\2"),
    (r"synthesis\.layer(\d?[02468])\.style\.(weight|bias)", r"\1.epi1.style_mod.lin.\2"),
    (r"synthesis\.layer(\d?[13579])\.style\.(weight|bias)", r"\1.epi2.style_mod.lin.\2"),
    (r"synthesis\.layer(\d?[02468])\.apply_noise\.weight", r"\1.epi1.noise.weight"),
    (r"synthesis\.layer(\d?[13579])\.apply_noise\.weight", r"\1.epi2.noise.weight"),
)


def _generator(content: dict) -> dict | None:
    """The averaged generator of a checkpoint, else the trained one; None where it holds neither."""
    for holder in (content, content.get("models"), content.get("model")):
        for name in ("generator_smooth", "generator"):
            state = holder.get(name) if isinstance(holder, dict) else None
            keys = state if isinstance(state, dict) else ()
            if any(isinstance(key, str) and "synthesis.layer" in key for key in keys):
                return state
    return None


def recognises(content: dict) -> bool:
    return _generator(content) is not None


def read(content: dict) -> Networks:
    """Raises: UserError, worded to follow the name of the file."""
    require_settings(content, REQUIRED)
    state = tensors(_generator(content))
    if "synthesis.layer0.const" not in state:
        raise UserError("lacks synthesis.layer0.const: only a constant input is supported")
    renamed_state = {}
    for key, tensor in renamed(dict(sorted(state.items())), NAMES).items():
        layer, _, rest = key.partition(".")
        if layer.isdecimal():
            key = "blocks.{0}x{0}.{1}".format(4 << int(layer) // 2, rest)
        renamed_state[key] = tensor.flatten() if key.endswith("noise.weight") else tensor
    return build_networks(renamed_state)
