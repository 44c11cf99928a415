"""genforce's StyleGAN checkpoints (`.pth`): their keys become PULSE's.

The tensors are stored as NVIDIA's are, in PyTorch's layout; only names change. What other settings
than genforce's defaults (fused scale `auto`, no final tanh, a constant input) leave in a file is
refused by name.
"""

from __future__ import annotations

import re

from torch import Tensor

State = dict[str, Tensor]
# Settings that a checkpoint may carry beside its tensors, and what they must be.
REQUIRED = {"fused_scale": "auto", "final_tanh": False, "const_input": True}


def without_module(content: dict) -> dict:
    """Without the prefix that DataParallel puts before every key."""
    if content and all(str(key).startswith("module.") for key in content):
        return {key.removeprefix("module."): value for key, value in content.items()}
    return content


def generator_state(content: dict) -> State | None:
    """The averaged generator of a checkpoint, else the trained one; None where it holds neither.

    Raises: ValueError, in words that follow `FILE …`, for settings that make another network.
    """
    for name, required in REQUIRED.items():
        if name in content and content[name] != required:
            raise ValueError(f"was made with {name} = {content[name]!r}: only {required!r} is read")
    for holder in (content, content.get("models"), content.get("model")):
        for name in ("generator_smooth", "generator"):
            state = holder.get(name) if isinstance(holder, dict) else None
            if isinstance(state, dict):
                state = without_module(state)
                if any(key.startswith("synthesis.layer") for key in state):
                    return state
    return None


def states(state: State) -> tuple[State, State]:
    """Synthesis and mapping state dicts under PULSE's names, without the constant blur.

    Raises: ValueError, in words that follow `FILE …`, naming a key that is unknown or missing.
    """
    if "synthesis.layer0.const" not in state:
        raise ValueError("lacks synthesis.layer0.const: only a constant input is supported")
    outputs = [re.fullmatch(r"synthesis\.output(\d+)\.weight", key) for key in state]
    last = max((int(match[1]) for match in outputs if match), default=-1)
    synthesis: State = {}
    mapping: State = {}
    for key, tensor in state.items():
        if re.search(r"(^|\.)(lod|w_avg|apply_noise\.noise)$", key):
            continue
        if match := re.fullmatch(r"mapping\.(dense\d+\.(?:weight|bias))", key):
            mapping[match[1]] = tensor
        elif match := re.fullmatch(r"synthesis\.output(\d+)\.(weight|bias)", key):
            if int(match[1]) == last:  # those of smaller pictures are not used
                synthesis[f"torgb.{match[2]}"] = tensor
        else:
            place = synthesis_key(key)
            synthesis[place] = tensor.flatten() if place.endswith("noise.weight") else tensor
    return synthesis, mapping


def synthesis_key(key: str) -> str:
    """PULSE's name of `synthesis.layer<i>.…`. Raises: ValueError for an unknown one."""
    match = re.fullmatch(r"synthesis\.layer(\d+)\.(.+)", key)
    layer, rest = (int(match[1]), match[2]) if match else (-1, "")
    names = {0: "", 1: "conv."} if layer < 2 else {0: "conv0_up.", 1: "conv1."}
    inner = names[layer % 2]  # the 4×4 block begins with a constant, others with conv0_up
    epilogue = f"epi{layer % 2 + 1}"
    places = {
        "style.weight": f"{epilogue}.style_mod.lin.weight",
        "style.bias": f"{epilogue}.style_mod.lin.bias",
        "apply_noise.weight": f"{epilogue}.noise.weight",
        "bias": f"{inner}bias",
        ("weight" if layer else "const"): f"{inner}weight" if layer else "const",
    }
    if rest not in places:
        raise ValueError(f"has the unknown key {key}: only genforce's default settings are read")
    size = 4 * 2 ** (layer // 2)
    return f"blocks.{size}x{size}.{places[rest]}"
