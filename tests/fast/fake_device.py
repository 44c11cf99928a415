"""A GPU that does not exist: tensors without data on a fake device, and a watch over what a search
does with them.

It rests on private names of PyTorch: `UNAVAILABLE` says why where they have changed.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fast.choose import FORMS
from fast.synthesis import Kernels
from generators.fit import Fit
from generators.load import Generator
from generators.stylegan2 import StyleGAN2Synthesis
from generators.stylegan3 import StyleGAN3Synthesis
from PULSE import Search
from search_settings import Settings
from stylegan import G_synthesis

UNAVAILABLE = ""
try:
    import torch._subclasses.fake_tensor as fake

    DEVICE_OF = torch.ops.prim.device.default
    WAIT = torch.ops.aten._local_scalar_dense.default
    ORIGINAL = fake.FakeTensor.__torch_dispatch__.__func__
    HANDLERS = fake._DISPATCH_META_HANDLERS
except (ImportError, AttributeError) as error:
    UNAVAILABLE = f"this PyTorch has no such fake tensors ({error})"
if torch.cuda.is_available():
    UNAVAILABLE = "there is a real CUDA device: test_on_cuda.py searches on it"

META = torch.device("meta")


def _stylegan2(**config) -> StyleGAN2Synthesis:
    return StyleGAN2Synthesis(32, 16, (8, 8, 8, 8), **config)


def _stylegan3(family: str) -> StyleGAN3Synthesis:
    return StyleGAN3Synthesis(32, family, 16, 128, 8, depth=4)


LATER = {  # networks by family and what is special about them
    "stylegan2 skip": _stylegan2,
    "stylegan2 without-noise": lambda: _stylegan2(use_noise=False),
    "stylegan2 resnet": lambda: _stylegan2(architecture="resnet", conv_clamp=256),
    "stylegan2 orig": lambda: _stylegan2(architecture="orig", conv_clamp=256),
    "stylegan3-t": lambda: _stylegan3("stylegan3-t"),
    "stylegan3-r": lambda: _stylegan3("stylegan3-r"),
}


class Watch(TorchDispatchMode):
    """Counts operations; while it is strict, nothing may wait for the fake device, and on CUDA,
    where steps are recorded, every tensor must be on it. `truth` is what a boolean tensor answers
    when it is read all the same.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device, self.strict, self.truth = device, False, True
        self.operations: Counter[str] = Counter()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is DEVICE_OF:
            return function(*args)
        if kwargs.get("device") == META:  # of the formulas of autograd
            kwargs["device"] = self.device
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        if function is WAIT:
            waits = self.strict and args[0].device.type == self.device.type
            assert not waits, "the search waits for the device"
            return 0.4 if args[0].dtype != torch.bool else self.truth
        # with the learning rate a tensor they have no form without data
        fused = "_fused_sgd_" in str(function) or "_fused_adam_" in str(function)
        result = None if fused else function(*args, **kwargs)
        if self.strict:
            tensors += [each for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
            devices = {each.device.type for each in tensors}
            alone = devices <= {self.device.type}
            assert alone or self.device.type != "cuda", f"{function} on {devices}"
            on_it = [each for each in tensors if each.device.type == self.device.type]
            if on_it:
                self.operations[str(function).removesuffix(".default")] += 1
                self.dtypes |= {each.dtype for each in on_it}
        return result


@contextlib.contextmanager
def fake_device(kind: str, monkeypatch, watch_class: type[Watch] = Watch):
    """Within it, tensors of `kind` (cuda or mps) can be made. Yields the Watch."""

    def dispatch(cls, function, types, args=(), kwargs=None):
        # To C++ the tensors are on the meta device: it has no streams that could be missing.
        return META if function is DEVICE_OF else ORIGINAL(cls, function, types, args, kwargs)

    monkeypatch.setattr(fake.FakeTensor, "__torch_dispatch__", classmethod(dispatch))
    monkeypatch.setitem(HANDLERS, DEVICE_OF, lambda args: META)
    device = torch.device(kind, 0)
    with fake.FakeTensorMode(), watch_class(device) as watch:
        yield watch


def search_on(
    watch: Watch,
    kernels: Kernels | None,
    precision: str,
    batch: int,
    settings: Settings,
    *,
    width: int = 16,
    side: int = 16,
    watched: set[int] | None = None,
    network: Callable[[], torch.nn.Module] | None = None,
    **layout: int,
) -> None:
    """A whole search, its first two steps free to set things up, all others, or only those named,
    watched strictly. kernels: of the fast form; None is the plain network. side: pixels of the LR.
    network: makes what draws, of that width, in place of a G_synthesis of `layout`.
    """
    layout = {"resolution": 32, "fmap_base": 64, "fmap_max": 8} | layout
    with watch.device:
        synthesis = G_synthesis(width, **layout) if network is None else network()
        mean, std = torch.zeros(width), torch.ones(width)
    generator = Generator("fake", synthesis.requires_grad_(False), mean, std, {})
    synthesize = synthesis
    if kernels is not None:
        synthesize = FORMS[synthesis.family].fast(synthesis, kernels, precision)
    watch.truth = not settings.opt_name.startswith("sgd")
    ref_im = torch.full((batch, 3, side, side), 0.5)
    with watch.device:
        L = synthesis.num_layers
        fit = Fit(torch.zeros(16, 3 * side * side), torch.zeros(8, L, 16), torch.zeros(L))
    search = Search(generator, synthesize, ref_im, settings, list(range(batch)), fit=fit)
    try:
        for step in range(settings.steps):
            watch.strict = step in watched if watched else step >= 2
            search.step()
    finally:
        watch.strict = False
    assert sum(watch.operations.values()) > 50, "nothing was watched"
