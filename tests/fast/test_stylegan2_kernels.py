"""stylegan2.c: each of its functions against PyTorch's own operations."""

import math

import pytest
import torch

from fast import stylegan2_cpu
from fast.stylegan2_kernels import TorchStyleGAN2Kernels, blur, blur_back, joined

SIDE = 12


@pytest.fixture(scope="session")
def kernels(c_cache) -> dict:
    """By type of pictures."""
    found = {dtype: stylegan2_cpu.load(c_cache, dtype) for dtype in (torch.float32, torch.bfloat16)}
    assert all(made for made, _ in found.values()), found
    return {dtype: made for dtype, (made, _) in found.items()}


def pictures(channels: int, *sides: int, dtype=torch.float32) -> torch.Tensor:
    made = torch.randn(2, channels, *sides).to(dtype)
    return made.contiguous(memory_format=torch.channels_last)


def results(kernels, channels: int, dtype: torch.dtype, up: bool, limit: float) -> dict:
    """What the functions make of the same two pictures, of numbers of `dtype`, by name; the shares
    of h and of the picture in a gradient also alone.
    """
    torch.manual_seed(channels)
    half = SIDE // 2
    phases = [(half + 1, half + 1), (half + 1, half), (half, half + 1), (half, half)]
    y = [pictures(channels, *sides, dtype=dtype) for sides in (phases if up else [(SIDE, SIDE)])]
    x, h = (pictures(channels, SIDE, SIDE, dtype=dtype) for _ in range(2))
    d, s = torch.randn(2, 2, channels).bfloat16().float()
    bias, noise, rgb_bias = torch.randn(channels), torch.randn(2, 1, SIDE, SIDE), torch.randn(3)
    weight, grad = torch.randn(2, 3, channels), torch.randn(2, 3, SIDE, SIDE)
    stored = getattr(kernels, "dtype", torch.float32)
    y, x, h = [each.to(stored) for each in y], x.to(stored), h.to(stored)
    given = tuple(y) if up else y[0]
    shared = d, bias, noise, s, limit
    found = {
        "activate": kernels.activate(given, *shared, weight, rgb_bias, up),
        "both": kernels.activate_grad(h.clone(), x, *shared, weight, grad, up, True, True),
        "h": kernels.activate_grad(h, x, *shared, None, None, up, False, False),
        "picture": kernels.activate_grad(None, x, *shared, weight, grad, up, False, False),
    }
    return {
        f"{name} {i}": part
        for name, parts in found.items()
        for i, part in enumerate(parts)
        if part is not None
    }


@pytest.mark.parametrize("channels", [1, 5, 16, 24, 48, 64])
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("limit", [0.5, math.inf])
def test_each_function_of_stylegan2_c_computes_what_pytorch_does(kernels, channels, up, limit):
    expected = results(TorchStyleGAN2Kernels(), channels, torch.float32, up, limit)
    found = results(kernels[torch.float32], channels, torch.float32, up, limit)
    assert found.keys() == expected.keys() and len(found) == 13
    for name, mine in found.items():
        close = 1e-5 * expected[name].abs().max().item()
        assert torch.allclose(mine, expected[name], rtol=0, atol=close), name


@pytest.mark.parametrize("channels", [5, 16, 64])
@pytest.mark.parametrize("up", [False, True])
def test_bfloat16_is_float32_that_is_only_rounded_when_it_is_stored(kernels, channels, up):
    exact = results(kernels[torch.float32], channels, torch.bfloat16, up, 0.5)
    for name, mine in results(kernels[torch.bfloat16], channels, torch.bfloat16, up, 0.5).items():
        if mine.dtype == torch.bfloat16:
            assert torch.equal(mine, exact[name].bfloat16()), name
        elif name == "activate 1":  # the picture, of what was stored
            assert torch.allclose(mine, exact[name], rtol=0.05, atol=0.1), name
        else:
            assert torch.equal(mine, exact[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_the_number_of_threads(kernels, dtype):
    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append([results(kernels[dtype], 16, dtype, up, 0.5) for up in (False, True)])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_what_is_not_a_number_stays_so(kernels):
    for dtype, each in kernels.items():
        y = torch.full((1, 16, 4, 4), math.nan, dtype=dtype)
        y = y.contiguous(memory_format=torch.channels_last)
        ones = torch.ones(1, 16)
        assert each.activate(y, ones, ones[0], None, ones, 1.0, None, None, False)[0].isnan().all()


def test_the_blur_is_that_of_the_published_kernel_and_its_gradient():
    torch.manual_seed(0)
    y = torch.randn(2, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
    kernel = (taps[:, None] * taps).expand(3, 1, 4, 4)
    expected = torch.nn.functional.conv2d(y, kernel, padding=1, groups=3)
    assert torch.allclose(blur(y.detach()), expected)
    g = torch.randn_like(expected)
    assert torch.allclose(blur_back(g), torch.autograd.grad(expected, y, g)[0])


def test_phases_are_joined_where_they_lie():
    whole = torch.arange(2 * 25.0).view(1, 2, 5, 5)
    phases = [whole[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    assert torch.equal(joined(phases), whole)


def test_a_library_that_computes_something_else_is_refused(kernels, monkeypatch, tmp_path):
    activate = stylegan2_cpu.NativeStyleGAN2Kernels.activate

    def wrong(self, *arguments):
        x, rgb = activate(self, *arguments)
        return x * 1.01, rgb

    monkeypatch.setattr(stylegan2_cpu.NativeStyleGAN2Kernels, "activate", wrong)
    made, reason = stylegan2_cpu.load(tmp_path)
    assert made is None and "activate of" in reason and "delete it" in reason
