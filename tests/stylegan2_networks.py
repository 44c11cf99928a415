"""StyleGAN2's golden networks, and how far a form of one is from their numbers."""

import json

import torch
from conftest import golden, golden_state

from fast.stylegan2 import FastStyleGAN2
from generators.stylegan2 import StyleGAN2Synthesis

CASES = ["skip_4", "skip_16_nonoise", "skip_16_clamp", "skip_32", "skip_64"]
CASES += ["resnet_16_clamp", "orig_16"]


def golden_stylegan2(case: str):
    """The network of a golden file, its w and noise maps, the cotangent; the expected picture and
    gradients for w and the maps.
    """
    arrays = golden(f"sg2_synthesis_{case}")
    config, state = json.loads(str(arrays["config"])), golden_state(arrays)
    sizes = [2**k for k in range(2, config["resolution"].bit_length())]
    network = StyleGAN2Synthesis(
        config["resolution"],
        config["w_dim"],
        [state[f"b{size}.conv1.weight"].shape[0] for size in sizes],
        config["architecture"],
        config["conv_clamp"],
    )
    network.load_state_dict(state, strict=True)
    noise = [state[f"{layer}.noise_const"][None, None] for layer in arrays["noise_layers"]]
    expected = [arrays["image"], arrays["grad_w"]]
    expected += [arrays[f"grad_noise{i}"] for i in range(len(noise))]
    given = torch.from_numpy(arrays["w"]), noise, torch.from_numpy(arrays["cotangent"])
    return network.requires_grad_(False), given, [torch.from_numpy(each) for each in expected]


def differences(synthesize, given, expected) -> list[float]:
    """Of the picture and of each gradient: the largest over the largest magnitude, which is 0 for
    noise that has no strength.
    """
    w, noise, cotangent = given
    w, noise = w.clone().requires_grad_(), [maps.clone().requires_grad_() for maps in noise]
    image = synthesize(w, noise)
    found = [image.detach(), *torch.autograd.grad((image * cotangent).sum(), [w, *noise])]
    return [
        ((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30)).item()
        for mine, theirs in zip(found, expected, strict=True)
    ]


def as_on_cuda(fast: FastStyleGAN2) -> FastStyleGAN2:
    """The same form, its transposed convolutions as one."""
    for layers, *_ in fast.blocks:
        for layer in layers:
            layer.phases = False
    return fast
