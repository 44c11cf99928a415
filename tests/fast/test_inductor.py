"""The compiled form on CUDA: how many forms of its functions are compiled, and in which thread.

Compiled functions are counted by a back end that compiles nothing; backward runs in another thread,
as that of CUDA does.
"""

import subprocess
import sys
import threading
from collections import Counter

import pytest
import torch
from conftest import ROOT, random_networks
from forms import picture_and_gradients
from stylegan2_networks import as_on_cuda

from fast import inductor
from fast.inductor import InductorKernels
from fast.stylegan2 import FastStyleGAN2
from fast.stylegan2_kernels import TorchStyleGAN2Kernels
from fast.synthesis import FastSynthesis, TorchKernels
from generators.stylegan2 import StyleGAN2Synthesis

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def compiled(monkeypatch):
    """(function, thread) → how many forms have been compiled."""
    forms = Counter()
    torch_compile = torch.compile

    def counting(function, **options):
        def backend(graph, examples):
            forms[function.__name__, threading.current_thread().name] += 1
            return graph.forward

        return torch_compile(function, backend=backend, **options)

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", counting)
    yield forms
    torch._dynamo.reset()


def run(form: FastSynthesis, batch: int, gradients: bool) -> None:
    """A forward pass, and backward in the thread `autograd`."""
    network = form.layers
    w = torch.randn(batch, len(network), 16, requires_grad=gradients)
    noise = [
        torch.randn(batch, 1, 2 ** (i // 2 + 2), 2 ** (i // 2 + 2)) for i in range(len(network))
    ]
    for maps in noise[:5]:
        maps.requires_grad_(gradients)
    picture = form(w, noise)
    assert len(picture) == batch
    if gradients:
        loss = (picture * torch.ones_like(picture)).sum()
        thread = threading.Thread(target=loss.backward, name="autograd")
        thread.start()
        thread.join()
        assert w.grad.isfinite().all() and noise[4].grad.abs().max() > 0


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "pulse"]


def test_every_layer_gets_its_form_also_in_the_thread_of_backward_and_no_shape_a_second(
    compiled, caplog
):
    network, _ = random_networks(1024, fmap_base=2048, fmap_max=8)
    form = FastSynthesis(network.requires_grad_(False), InductorKernels())
    run(form, 2, True)
    first = dict(compiled)
    assert first["sums", "autograd"] == 9  # one for each size of picture, 4 to 1024
    assert first["leaky_grad", "autograd"] == 15
    run(form, 2, True)
    run(form, 2, False)  # the last step
    run(form, 1, True)  # the last batch
    run(form, 1, False)
    assert dict(compiled) == first
    assert not said(caplog)


def test_the_same_holds_for_stylegan2(compiled, caplog):
    network = StyleGAN2Synthesis(64, 16, [8, 8, 6, 6, 4]).requires_grad_(False)
    network.b8.conv0.noise_strength.fill_(0.5)
    form = FastStyleGAN2(network, InductorKernels(TorchStyleGAN2Kernels()))
    as_on_cuda(form)

    def step(batch: int, gradients: bool) -> None:
        w = torch.randn(batch, network.num_layers, 16, requires_grad=gradients)
        noise = [torch.randn(batch, 1, r, r) for r in network.noise_sizes]
        noise[1].requires_grad_(gradients)
        loss = form(w, noise).square().sum()
        if gradients:
            thread = threading.Thread(target=loss.backward, name="autograd")
            thread.start()
            thread.join()
            assert w.grad.isfinite().all() and noise[1].grad.abs().max() > 0

    step(2, True)
    first = dict(compiled)
    assert sum(first.values()) == 18  # of nine layers
    assert first["activate_grad", "autograd"] == 9
    for batch, gradients in ((2, True), (2, False), (1, True)):
        step(batch, gradients)
    assert dict(compiled) == first
    assert not said(caplog)


@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_stylegan2_compiled_is_stylegan2(compiled, architecture):
    network = StyleGAN2Synthesis(16, 16, [8, 8, 8], architecture, 1.0).requires_grad_(False)
    torch.manual_seed(1)
    w = torch.randn(2, network.num_layers, 16)
    noise = [torch.randn(2, 1, r, r) for r in network.noise_sizes]
    given = w, noise, torch.randn(2, 3, 16, 16)
    form = as_on_cuda(FastStyleGAN2(network, InductorKernels(TorchStyleGAN2Kernels())))
    expected = picture_and_gradients(network, *given)
    for found, other in zip(picture_and_gradients(form, *given), expected, strict=True):
        assert torch.allclose(found, other, rtol=1e-3, atol=1e-4)
    assert compiled


def test_a_smaller_batch_in_a_compiled_form_gives_the_same_pictures_and_gradients(compiled):
    network, _ = random_networks(16)
    network.requires_grad_(False)
    form = FastSynthesis(network, InductorKernels())
    torch.manual_seed(1)
    w = torch.randn(4, network.num_layers, 16)
    noise = [torch.randn(4, 1, r, r) for r in network.layer_sizes]
    cotangent = torch.randn(4, 3, 16, 16)
    picture_and_gradients(form, w, noise, cotangent)
    small = w[:3], [maps[:3] for maps in noise], cotangent[:3]
    expected = picture_and_gradients(FastSynthesis(network, TorchKernels()), *small)
    for found, other in zip(picture_and_gradients(form, *small), expected, strict=True):
        assert found.shape == other.shape and torch.allclose(found, other, rtol=1e-3, atol=1e-4)
    before = dict(compiled)
    form.kernels.forget_batch_sizes()  # the larger one did not fit into memory
    picture_and_gradients(form, *small)
    assert dict(compiled) != before


def test_a_shape_that_cannot_be_compiled_is_computed_all_the_same_with_one_line(
    monkeypatch, caplog
):
    torch_compile = torch.compile

    def broken_for_large(function, **options):
        def backend(graph, examples):
            if examples[0].shape[-1] > 8:
                raise RuntimeError("no such instruction\nand more")
            return graph.forward

        return torch_compile(function, backend=backend, **options)

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", broken_for_large)
    network, _ = random_networks(32)
    network.requires_grad_(False)
    form = FastSynthesis(network, InductorKernels())
    assert form.formulation == "compiled"
    torch.manual_seed(1)
    given = (
        torch.randn(2, network.num_layers, 16),
        [torch.randn(2, 1, r, r) for r in network.layer_sizes],
        torch.randn(2, 3, 32, 32),
    )
    found = picture_and_gradients(form, *given)
    expected = picture_and_gradients(FastSynthesis(network, TorchKernels()), *given)
    assert all(
        torch.allclose(*each, rtol=1e-4, atol=1e-5) for each in zip(found, expected, strict=True)
    )
    assert form.formulation == "eager"
    assert said(caplog) == [
        "leaky could not be compiled (no such instruction): "
        "slower from here on, and otherwise the same"
    ]
    torch._dynamo.reset()


def test_an_error_without_a_word_on_the_given_device_is_named_by_its_kind(tmp_path, monkeypatch):
    devices = set()

    def failing(function, **options):
        def call(*arguments):
            devices.update(each.device.type for each in arguments)
            raise RuntimeError("")

        return call

    monkeypatch.setattr(torch, "compile", failing)
    found = inductor.load(tmp_path, torch.device("meta"))
    assert found == (None, "torch.compile failed: RuntimeError")
    assert devices == {"meta"}


def test_real_code_is_compiled_and_computes_what_pytorch_does(tmp_path):
    kernels, reason = inductor.load(tmp_path, torch.device("cpu"))
    assert kernels is not None, reason
    for channels in range(1, 4):
        x = torch.ones(1, channels, 4, 4)
        each = torch.full((1, channels), 2.0)
        assert torch.equal(kernels.affine(x, each, each, each, overwrite=True), torch.zeros_like(x))
        assert torch.equal(x, torch.ones_like(x))  # never overwritten: one form does for both


ENGINE = """
import threading, torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as set_up
set_up("npy")

class T(torch.Tensor):
    @staticmethod
    def __new__(cls, raw):
        made = torch._C._acc.create_empty_tensor(raw.shape, raw.dtype)
        made.__class__ = T
        return made
    def __init__(self, raw):
        self.raw = raw

def raw(x):
    return x.raw if hasattr(x, "raw") else torch.zeros(x.shape)

implement = lambda name: torch.library.impl(name, "privateuseone")

@implement("aten::detach")
def detach(x): return T(raw(x))

@implement("aten::ones_like")
def ones_like(x, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return T(torch.ones_like(raw(x)))

from fast import inductor
forms = []
real = torch.compile
def counting(function, **options):
    def backend(graph, examples):
        forms.append(threading.get_native_id())
        return graph.forward
    return real(function, backend=backend, **options)
torch.compile = counting
kernels = inductor.InductorKernels()

class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return T(raw(x).sum())
    @staticmethod
    def backward(ctx, gradient):
        for channels in range(1, 21):
            x = torch.ones(1, channels, 2, 2)
            kernels.sums(x, x, torch.zeros(1, channels))
        return T(torch.ones(3))

Backward.apply(T(torch.ones(3)).requires_grad_()).backward()
print(len(forms), len(set(forms)), threading.get_native_id() in forms)
"""


@pytest.mark.skipif(
    not hasattr(torch._C, "_acc") or not hasattr(torch._C._acc, "create_empty_tensor"),
    reason="this PyTorch has no back ends in Python",
)
def test_a_thread_of_the_autograd_engine_itself_gets_every_form():
    done = subprocess.run(
        [sys.executable, "-c", ENGINE], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["20", "1", "False"], done.stderr
