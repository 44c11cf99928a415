"""tf32 is a matter of one search's convolutions: not of the process, nor of matrix products."""

from types import SimpleNamespace

import pytest
import torch
from conftest import random_networks

from fast import precision as precisions
from fast.choose import FastForms
from fast.precision import choose_precision, convolutions_in, matrix_products_in
from fast.synthesis import FastSynthesis, TorchKernels

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


def switches() -> tuple:
    """PyTorch's own, of convolutions and of matrix products."""
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    if hasattr(cudnn, "conv"):
        return cudnn.conv.fp32_precision, cuda.matmul.fp32_precision
    return cudnn.allow_tf32, cuda.matmul.allow_tf32


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_the_switch_is_set_for_convolutions_only_and_put_back(precision):
    before = switches()
    with convolutions_in(precision, CUDA):
        assert (switches()[0] in ("tf32", True)) == (precision == "tf32")
        assert switches()[1] == before[1]
        with matrix_products_in("tf32", CUDA):
            assert switches()[1] in ("tf32", True)
        assert switches()[1] == before[1]
    assert switches() == before
    with pytest.raises(KeyError), convolutions_in(precision, CUDA):
        raise KeyError
    assert switches() == before
    with convolutions_in("tf32", CPU):
        assert switches() == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="a switch of PyTorch 2.9")
def test_a_caller_may_have_used_either_switch_of_pytorch(monkeypatch):
    monkeypatch.setattr(precisions, "before_ampere", lambda device: False)
    conv, before = torch.backends.cudnn.conv, torch.backends.cudnn.conv.fp32_precision
    try:
        for value, expected in (("ieee", "float32"), ("tf32", "tf32")):
            conv.fp32_precision = value  # after which reading cudnn.allow_tf32 may raise
            assert choose_precision(None, CUDA) == expected
        torch.backends.cudnn.allow_tf32 = False
        assert choose_precision(None, CUDA) == "float32"
        with convolutions_in("tf32", CUDA):
            assert conv.fp32_precision == "tf32"
        assert not torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = True
        conv.fp32_precision = before


@pytest.mark.parametrize("precision", [None, "float32", "tf32", "bfloat16"])
def test_a_model_on_cuda_leaves_the_switches_of_the_process_alone(monkeypatch, tmp_path, precision):
    class OnCUDA(torch.nn.Module):
        family = "stylegan1"

        def parameters(self, recurse=True):
            yield SimpleNamespace(device=CUDA)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    before = switches()
    forms = FastForms(OnCUDA(), tmp_path, "off", precision)
    assert forms.device == CUDA and forms.precision == (precision or "tf32")
    assert switches() == before


def test_two_searches_of_one_process_keep_their_own_precision(monkeypatch):
    """Forward and backward; between them nothing of the process is changed."""
    network, _ = random_networks(8)
    forms = {
        name: FastSynthesis(network.requires_grad_(False), TorchKernels(), name)
        for name in ("tf32", "float32")
    }
    seen = []
    for name, form in forms.items():
        form.device = CUDA  # as if it were on it
        for layer in form.layers:
            for function in ("convolve", "convolve_back"):
                original = getattr(layer, function)

                def watched(x, original=original, name=name):
                    seen.append((name, switches()[0] in ("tf32", True)))
                    return original(x)

                monkeypatch.setattr(layer, function, watched)
    before = switches()
    w = torch.randn(1, network.num_layers, 16, requires_grad=True)
    noise = [torch.randn(1, 1, r, r) for r in network.layer_sizes]
    pictures = [form(w, noise) for form in forms.values()]
    assert switches() == before
    for picture in reversed(pictures):
        picture.sum().backward()
    assert switches() == before
    assert set(seen) == {("tf32", True), ("float32", False)}
    assert len(seen) == 4 * (network.num_layers - 1)


@pytest.mark.parametrize(("capability", "has_it"), [((7, 5), False), ((8, 0), True)])
def test_before_ampere_there_is_float32_and_one_line(monkeypatch, caplog, capability, has_it):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA T4")
    assert choose_precision(None, CUDA) == ("tf32" if has_it else "float32")
    assert not caplog.messages
    for name in ("tf32", "bfloat16"):
        caplog.clear()
        assert choose_precision(name, CUDA) == (name if has_it else "float32")
        assert len(caplog.messages) == (0 if has_it else 1)
    assert choose_precision("float32", CUDA) == "float32"
