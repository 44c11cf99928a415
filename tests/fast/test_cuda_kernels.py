"""The compiled form on CUDA, without a GPU: networks and a search on the machine of test_ptx.py;
that the kernels compile for real GPUs; and what a step launches and moves.
"""

import pytest

pytest.importorskip("triton", reason="PyTorch comes without Triton here")

import count_kernels
import torch
from conftest import random_networks
from fake_device import UNAVAILABLE
from forms import picture_and_gradients, relative
from ptx_launch import Launch

from fast import cuda, cuda_backward, cuda_kernels, cuda_step
from fast.synthesis import FastSynthesis, TorchKernels
from generators.load import Generator
from PULSE import Search
from search_settings import Settings


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """Triton's kernels run on it; what is compiled is kept for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        patch.setattr(cuda, "_launch", launch := Launch())
        yield launch


@pytest.fixture
def small_tiles(machine, monkeypatch):
    """Of several programs for the small pictures of these tests."""
    for name, value in (("TILE", 256), ("TILE_OF_GRADIENTS", 128), ("ROWS", 3)):
        monkeypatch.setattr(cuda, name, value)


def of_w_in_unit_range(fast, w, noise, cotangent) -> list[torch.Tensor]:
    """(picture + 1)/2, and the gradient for w alone, on whose way back blurs are one kernel."""
    w = w.clone().requires_grad_()
    picture = fast.in_unit_range(w, noise)
    return [picture.detach(), *torch.autograd.grad((picture * cotangent).sum(), [w])]


def agreement(
    kernels, resolution: int, batch: int, precision: str, of=picture_and_gradients, **changes
) -> float:
    """The largest relative difference, of picture and gradients, to PyTorch in float32."""
    torch.manual_seed(0)
    network, _ = random_networks(resolution, **changes)
    network.requires_grad_(False)
    w = torch.randn(batch, network.num_layers, 16)
    noise = [torch.randn(batch, 1, r, r) for r in network.layer_sizes]
    given = w, noise, torch.randn(batch, 3, resolution, resolution)
    expected, found = (
        of(FastSynthesis(network, *each), *given)
        for each in ((TorchKernels(),), (kernels, precision))
    )
    assert all(each.dtype == torch.float32 for each in found)
    return max(relative(*pair) for pair in zip(found, expected, strict=True))


def searched() -> float:
    """The largest relative difference of a whole search to that in PyTorch's operations: of its
    figures and of all that it keeps.
    """
    torch.manual_seed(0)
    network, _ = random_networks(8)
    network.requires_grad_(False)
    generator = Generator("random", network, torch.zeros(16), torch.ones(16), {})
    settings = Settings(steps=4, learning_rate=0.01)
    ends = []
    for kernels in (cuda.TritonKernels(), TorchKernels()):
        synthesize = FastSynthesis(network, kernels)
        ref_im = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
        search = Search(generator, synthesize, ref_im, settings, [0, 1])
        totals = torch.stack([search.step()["total"] for _ in range(4)])
        ends.append([totals, *(each.float() for each in search.best.values())])
    assert (ends[0][0][0] > ends[0][0][-1]).all() and len(ends[0]) > 10
    pairs = [(one + 1, other + 1) for one, other in zip(*ends, strict=True)]  # some are 0
    return max(relative(*pair) for pair in pairs)


def test_pictures_and_gradients_are_those_of_pytorchs_operations(small_tiles, monkeypatch):
    kernels = cuda.TritonKernels()
    assert agreement(kernels, 8, 1, "float32", fmap_base=2048, fmap_max=80) < 1e-4
    assert agreement(kernels, 8, 2, "float32", of=of_w_in_unit_range) < 1e-4
    # They round what they store only, PyTorch's operations every number between.
    eager = agreement(TorchKernels(), 16, 1, "bfloat16")
    assert agreement(kernels, 16, 1, "bfloat16") < eager
    monkeypatch.setattr(cuda, "TILE", 128)  # half of a row of 16 pixels
    monkeypatch.setattr(cuda, "ROWS", 4)
    assert agreement(kernels, 16, 2, "float32") < 1e-4


def test_a_search_is_that_in_pytorchs_operations(small_tiles):
    assert searched() < 1e-4


@pytest.mark.parametrize("flag", [False, True])
def test_every_kernel_compiles_for_an_older_gpu(flag, tmp_path, monkeypatch):
    """An A100: the machine runs what they are for an H100."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile
    from triton.runtime.jit import JITFunction

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    flags = {"NOISE": flag, "BLUR": int(flag), "OF_PICTURE": flag, "UNTIL": flag}
    sizes = {"PIXELS": 16, "CHANNELS": 64, "PROGRAMS": 64, "BLOCK": 256, "ROWS": 16, "LAYERS": 32}
    sizes |= {"COLUMNS": 64, "SIDE": 32}
    numbers = {"rows", "width", "C", "P", "strip", "columns", "programs", "d", "n", "B", "L"}
    numbers |= {"more", "final", "size", "factor", *(f"n_{i}" for i in range(8))}
    others = {"first": "*i32", "number": "*i64", "best_step": "*i64", "last": "*i64", "eps": "fp32"}
    others |= {"out of downscaled": "i32", "out of downscaled_grad": "i32"}
    others |= {"best_within": "*u8", "better": "*u8"}
    pixels, small = {"y", "x", "g", "out"}, vars(cuda_step)
    every = vars(cuda_kernels) | vars(cuda_backward) | vars(cuda_step)
    kernels = {name: each for name, each in every.items() if name[0] != "_"}
    kernels = {name: each for name, each in kernels.items() if isinstance(each, JITFunction)}
    assert len(kernels) == 19
    for name, kernel in kernels.items():
        constants, types = {}, {}
        for each in kernel.arg_names:
            if each.isupper() and each not in numbers:
                constants[each], types[each] = (flags | sizes)[each], "constexpr"
            elif each in numbers:
                types[each] = "i32"
            elif known := {each, f"{each} of {name}"} & others.keys():
                types[each] = others[known.pop()]
            else:
                types[each] = "*bf16" if each in pixels and name not in small else "*fp32"
        source = ASTSource(kernel, types, constexprs=constants)
        made = compile(source, target=GPUTarget("cuda", 80, 32))
        assert "sm_80" in made.asm["ptx"]


@pytest.mark.skipif(bool(UNAVAILABLE), reason=UNAVAILABLE)
def test_a_step_launches_few_kernels_and_moves_little_memory():
    """At 1024 pixels, in float32; the eager form beside it shows that both are counted."""
    eager, compiled = (
        count_kernels.of_a_step(form, "float32", 1024) for form in count_kernels.FORMS
    )
    assert eager.launches > 600 and eager.bytes > 9e9
    assert compiled.launches < 215 and compiled.bytes < 3.3e9
    compiled = count_kernels.of_a_step("compiled", "bfloat16", 1024)
    assert compiled.launches < 235 and compiled.bytes < 2e9
