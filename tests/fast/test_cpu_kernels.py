"""cpu.c: each of its functions against PyTorch's own operations, and what is kept in the cache."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from forms import every_form

from fast import cpu


@pytest.fixture(scope="session")
def kernels(c_cache):
    """Both forms of what lies between convolutions, and the compiled one for bfloat16."""
    return every_form(c_cache)


@pytest.mark.parametrize("form", ["compiled", "compiled bfloat16"])
def test_compiled_sums_do_not_depend_on_the_number_of_threads(kernels, form):
    torch.manual_seed(0)
    x = torch.randn(1, 16, 128, 128).contiguous(memory_format=torch.channels_last)
    x = x.to(kernels[form].dtype)
    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            bias = torch.zeros(16)
            found.append(kernels[form].leaky(x.clone(), bias, bias, None, True))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            assert torch.equal(mine, theirs)


def every_function(kernels, channels, x, y) -> dict[str, torch.Tensor]:
    """What the functions of `kernels` make of x and y (2, channels, 12, 12), by name."""
    random = torch.Generator().manual_seed(channels)
    mean, a, b, c = torch.randn(4, 2, channels, generator=random)
    noise, grad = (torch.randn(2, n, 12, 12, generator=random) for n in (1, 3))
    weight, bias = torch.randn(3, channels, generator=random), torch.randn(3, generator=random)

    def g():  # again, since it may be overwritten
        return kernels.picture_grad(grad, weight, x.dtype)

    found = {
        "affine": kernels.affine(x, mean, a, b, overwrite=False),
        "picture": kernels.picture(x, mean, a, b, weight, bias, overwrite=False),
        "leaky_grad of a picture": kernels.leaky_grad(g(), x, mean, a, b, c, False),
        "sums": torch.stack(kernels.sums(y, x, mean)),
        "sums of a picture": torch.stack(kernels.sums(g(), x, mean)),
    }
    for blur in (False, True):
        leaky = kernels.leaky(y.clone(), a[0], b[0], noise, blur)
        found[f"leaky, blur {blur}"], found[f"moments, blur {blur}"] = (
            leaky[0],
            torch.stack([each.double() for each in leaky[1:]]),
        )
        found[f"leaky_grad, blur {blur}"] = kernels.leaky_grad(y.clone(), x, mean, a, b, c, blur)
    return found


def two_pictures(channels, dtype):
    torch.manual_seed(channels)
    return (
        torch.randn(2, channels, 12, 12).contiguous(memory_format=torch.channels_last).to(dtype)
        for _ in range(2)
    )


@pytest.mark.parametrize("channels", [1, 5, 16, 24, 48, 64])
def test_each_function_of_cpu_c_computes_what_pytorch_does(kernels, channels):
    x, y = two_pictures(channels, torch.float32)
    expected = every_function(kernels["eager"], channels, x, y)
    for name, found in every_function(kernels["compiled"], channels, x, y).items():
        assert torch.allclose(found.double(), expected[name].double(), rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("channels", [1, 5, 16, 24, 48, 64])
def test_bfloat16_is_float32_that_is_only_rounded_when_it_is_stored(kernels, channels):
    x, y = two_pictures(channels, torch.bfloat16)
    exact = every_function(kernels["compiled"], channels, x.float(), y.float())
    for name, found in every_function(kernels["compiled bfloat16"], channels, x, y).items():
        if name == "picture":
            assert found.dtype == torch.float32
            assert torch.allclose(found, exact[name], rtol=1e-5, atol=1e-5)
        elif found.dtype == torch.bfloat16:
            # its gradient of a picture is itself stored, row by row
            close = 0.02 if name == "leaky_grad of a picture" else 0
            difference = (found.float() - exact[name].bfloat16().float()).abs()
            assert (difference <= close * exact[name].abs().clamp(min=1)).all(), name
        else:  # of numbers that were rounded, not of those before
            assert torch.allclose(found, exact[name], rtol=1e-2, atol=1e-2 * 144), name


def test_moments_of_bfloat16_are_those_of_what_is_stored(kernels):
    _, y = two_pictures(16, torch.bfloat16)
    zeros = torch.zeros(16)
    x, mean, variance = kernels["compiled bfloat16"].leaky(y.clone(), zeros, zeros, None, True)
    expected = torch.var_mean(x.double(), dim=(2, 3), correction=0)
    assert torch.allclose(mean, expected[1], rtol=0, atol=1e-6)
    assert torch.allclose(variance, expected[0], rtol=1e-5)


def test_bfloat16_is_rounded_to_the_nearest_even_and_what_is_no_number_stays_so(kernels):
    bits = [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7FFFFF, 0x7F800000, 0x7FFFFFFF]
    bits += [0x7F800001, 0x00000001, 0x00018000]  # a signalling NaN; what is not normalised
    b = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    b = torch.cat([b, -b], dim=1)
    x = torch.zeros(1, b.shape[1], 4, 4, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    zeros = torch.zeros_like(b)
    found = kernels["compiled bfloat16"].affine(x, zeros, zeros, b, overwrite=False)[..., 0, 0]
    assert torch.equal(found.isnan(), b.isnan())
    assert torch.equal(found.nan_to_num(nan=0.0), b.bfloat16().nan_to_num(nan=0.0))


def test_a_damaged_file_in_the_cache_is_no_error(tmp_path):
    cpu.compiled_path(tmp_path).write_bytes(b"not a library")
    kernels, reason = cpu.load(tmp_path)
    assert kernels is None and "delete it" in reason


def test_compiled_code_is_kept_and_used_again(tmp_path):
    assert cpu.load(tmp_path)[0] is not None
    kept = cpu.compiled_path(tmp_path)
    changed = kept.stat().st_mtime_ns
    assert cpu.load(tmp_path)[0] is not None
    assert kept.stat().st_mtime_ns == changed and list(tmp_path.iterdir()) == [kept]


FORKED = """
import os, sys
from pathlib import Path
from fast import cpu

children = []
for _ in range(3):
    if (child := os.fork()) == 0:
        os._exit(cpu.load(Path(sys.argv[1]))[0] is None)
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children])
"""  # one import of PyTorch for all


def test_several_processes_compile_at_once_into_one_cache(tmp_path):
    command = [sys.executable, "-c", FORKED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout == "[0, 0, 0]\n", done.stderr
    assert list(tmp_path.iterdir()) == [cpu.compiled_path(tmp_path)]
