"""The layers and filters of StyleGAN3, as the published files state them."""

import json

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from stylegan3_networks import GOLDEN_STYLEGAN3, golden_config, golden_stylegan3

from cli.errors import UserError
from generators.stylegan3 import StyleGAN3Synthesis
from generators.stylegan3_layout import (
    channel_settings,
    layer_layouts,
    lowpass_filter,
    require_layout,
)

MANIFEST = json.loads((GOLDEN / "stylegan3_manifest.json").read_text())


def published(name: str) -> StyleGAN3Synthesis:
    family, _, resolution = name.rpartition("-")
    twice = 2 if family == "stylegan3-r" else 1
    base = twice * (16384 if resolution == "256" else 32768)
    with torch.device("meta"):
        return StyleGAN3Synthesis(int(resolution), family, 512, base, 512 * twice)


def test_filters_are_the_published_ones():
    with np.load(GOLDEN / "sg3_filters.npz") as arrays:
        spec = json.loads(str(arrays["spec"]))
        assert len(spec) > 60 and any(each["radial"] for each in spec.values())
        for name, each in spec.items():
            found = lowpass_filter(
                each["numtaps"], each["cutoff"], each["width"] / 2, each["fs"], each["radial"]
            )
            assert found.shape == arrays[name].shape
            assert np.abs(found.numpy() - arrays[name]).max() < 1e-7, name


@pytest.mark.parametrize("name", GOLDEN_STYLEGAN3)
def test_filters_of_a_file_are_those_that_are_computed(name):
    network, _ = golden_stylegan3(name)
    for key, value in StyleGAN3Synthesis(**network.config).state_dict().items():
        if key.endswith("filter"):
            assert torch.allclose(value, network.state_dict()[key], rtol=0, atol=1e-7)


def stated_by(name: str) -> tuple[list, dict]:
    """The layouts of a published network, and what its file states."""
    if name in MANIFEST:
        return published(name).layouts, {each["name"]: each for each in MANIFEST[name]["layers"]}
    layers = golden_config(name)["layers"]
    return golden_stylegan3(name)[0].layouts, {each["name"]: each for each in layers} | {
        "input": {}
    }


@pytest.mark.parametrize("name", [*MANIFEST, *GOLDEN_STYLEGAN3])
def test_every_number_of_every_layer(name):
    layouts, stated = stated_by(name)
    require_layout(layouts, stated)
    channels = [layer.out_channels for layer in layouts[:-1]]
    resolution, critical = layouts[-1].out_size, layouts[-1].is_critically_sampled
    num_critical = sum(layer.is_critically_sampled for layer in layouts) - critical
    cutoffs = [layer.out_cutoff for layer in layouts[:-1]]
    base, most = channel_settings(channels, cutoffs)
    family = "stylegan3-r" if any(layer.down_radial for layer in layouts) else "stylegan3-t"
    margin = (layouts[0].out_size - layouts[0].out_sampling_rate) // 2
    again = layer_layouts(resolution, family, base, most, len(channels), num_critical, margin)
    assert again == layouts


@pytest.mark.parametrize(
    ("layer", "key", "value", "message"),
    [
        ("L3_52_512", "up_factor", 4, r"up_factor = 4.0 in layer L3_52_512: only 2 is read"),
        ("L3_52_512", "padding", [9, 8, 9, 9], r"padding = \[9.0, 8.0, 9.0, 9.0\] in layer L3_52"),
        ("L3_52_512", "padding", "9", r"padding = 9.0 in layer"),
        ("L3_52_512", "in_size", np.array([52, 36]), r"in_size = \[52.0, 36.0\]"),
        ("L3_52_512", "out_size", np.zeros(5), r"out_size = 5 numbers"),
        ("L3_52_512", "in_cutoff", None, "in_cutoff = nan"),
        ("L3_52_512", "in_cutoff", {"a": 1}, "in_cutoff = dict"),
        ("L3_52_512", "down_radial", True, "down_radial = 1.0 in layer L3_52_512: only False"),
        ("L14_1024_3", "is_torgb", False, "is_torgb = 0.0"),
        ("input", "bandwidth", 2.5, "bandwidth = 2.5 in layer input: only 2.0 is read"),
        ("input", "size", 52, "size = 52.0"),
    ],
)
def test_a_file_that_states_something_else_is_refused(layer, key, value, message):
    layouts, stated = stated_by("stylegan3-t-1024")
    with pytest.raises(UserError, match=message):
        require_layout(layouts, stated | {layer: stated[layer] | {key: value}})


def test_a_file_with_other_layers_is_refused():
    layouts, stated = stated_by("stylegan3-t-1024")
    with pytest.raises(UserError, match="L15_8_8 is unknown"):
        require_layout(layouts, stated | {"L15_8_8": {}})
    del stated["L10_1044_81"]
    with pytest.raises(UserError, match="L10_1044_81 is missing"):
        require_layout(layouts, stated)


def test_sizes_may_be_stated_for_each_axis():
    layouts, stated = stated_by("stylegan3-t-1024")
    both = {"in_size": np.array([36, 36]), "out_size": [36, 36]}
    require_layout(layouts, stated | {"L0_36_512": stated["L0_36_512"] | both, "input": {}})


@pytest.mark.parametrize(
    "change",
    [
        {"resolution": 24},
        {"resolution": 1 << 40},
        {"family": "stylegan3"},
        {"depth": 2},
        {"num_critical": -1},
        {"margin_size": -1},
        {"channel_base": 8},
        {"channel_max": 0},
    ],
)
def test_numbers_that_make_no_network_are_refused(change):
    with pytest.raises(ValueError):
        StyleGAN3Synthesis(**{"resolution": 32, "channel_base": 64, "channel_max": 8} | change)
