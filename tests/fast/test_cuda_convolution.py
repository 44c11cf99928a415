"""Triton's convolutions without a GPU: what they compute, by its interpreter; what they compile to;
and that a search launches them.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
from fake_device import UNAVAILABLE, fake_device, search_on
from ptx_launch import WARP

from fast import cuda, cuda_convolution, cuda_few_pixels
from fast.cuda_convolution import pack, serves
from fast.kernel_check import CONVOLUTIONS
from fast.layers import Convolution, channels_last
from search_settings import Settings

HERE = Path(__file__).parent
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module")
def interpreted() -> dict:
    command = [sys.executable, HERE / "interpreted_convolution.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["interpreted"] == "InterpretedFunction"
    return found


def test_they_compute_what_pytorch_does(interpreted):
    for kind, in_32, in_16 in (("differences", 9, 10), ("few pixels", 5, 5)):
        in_float32, in_bfloat16 = (interpreted[kind][str(each)] for each in DTYPES)
        assert len(in_float32) == in_32 and len(in_bfloat16) == in_16
        assert all(each < 1e-5 for pair in in_float32.values() for each in pair)
        # the result's 8 bits, which the interpreter cuts off instead of rounding
        assert all(each < 2**-7 for pair in in_bfloat16.values() for each in pair)


def test_pictures_and_gradients_of_a_network_are_those_of_pytorch(interpreted):
    assert interpreted["network"]["float32"][2] == 0  # all are cuDNN's
    triton, _, served = interpreted["network"]["tf32"]
    assert triton < 2e-3 and served == 2  # not that of 32 channels on either side
    triton, pytorch, served = interpreted["network"]["bfloat16"]
    assert triton < 1.5 * pytorch and served == 3


def test_those_with_a_fault_are_refused_by_name_and_the_other_kernels_are_not(interpreted):
    loaded = interpreted["loaded"]
    for fault, channels in (("same", "16 to 16"), ("up", "32 to 16")):
        said, convolves = loaded[fault]
        assert f"cuDNN does all convolutions (convolve_back ({channels} channels)" in said
        assert not convolves
    assert loaded["none"] == [True]


def test_weights_are_rounded_to_what_tensor_cores_read():
    kernel = torch.randn(16, 16, 3, 3)
    packed = pack(kernel, "same").weight
    assert not (packed.view(torch.int32) & 0x1FFF).any()
    used = packed[packed != 0].sort().values
    twice = kernel.flatten().repeat(2).sort().values  # two pixels of the output use each
    assert torch.allclose(used, twice, rtol=2**-11, atol=0)
    assert not torch.allclose(used, twice, rtol=2**-13, atol=0)


@pytest.mark.parametrize(
    ("channels", "dtype"),
    [((3, 16), DTYPES[1]), ((48, 16), DTYPES[1]), ((128, 32), DTYPES[1]), ((64, 32), DTYPES[0])],
)
def test_other_channels_and_float32_are_left_to_pytorch(channels, dtype):
    kernel = torch.zeros(*channels, 4, 4, dtype=dtype)
    given = Convolution(kernel, up=True)
    assert cuda.TritonKernels().convolution(given, "tf32") is given
    given = Convolution(torch.zeros(16, 16, 3, 3), up=False)
    assert cuda.TritonKernels().convolution(given, "float32") is given
    assert cuda.TritonKernels(convolves=False).convolution(given, "tf32") is given
    assert isinstance(cuda.TritonKernels().convolution(given, "tf32"), cuda.TritonConvolution)


def compiled(packed: cuda_convolution.Packed, capability: int):
    """A launch's kernel, compiled for a GPU that is not here."""
    options = {"memory_format": torch.channels_last}
    x = torch.empty(1, packed.C, 16, 16, dtype=packed.weight.dtype).to(**options)
    _, _, arguments, constants = cuda_convolution.launch(packed, x)
    return compiled_launch(
        cuda_convolution.convolution, arguments, constants, capability, (0, 1, 2)
    )


def compiled_launch(kernel, arguments, constants: dict, capability: int, aligned: tuple[int, ...]):
    """aligned: arguments that 16 divides."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}
    options = {name: constants[name] for name in ("num_warps", "num_stages")}
    constants = {name: value for name, value in constants.items() if name not in options}
    types = [names[each.dtype] if torch.is_tensor(each) else "i32" for each in arguments]
    types += ["constexpr"] * len(constants)
    types = dict(zip(kernel.arg_names, types, strict=True))
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}  # as PyTorch's memory is
    source = ASTSource(kernel, types, constexprs=constants, attrs=attributes)
    return compile(source, target=GPUTarget("cuda", capability, WARP), options=options)


def assembled(ptx: str, folder: Path) -> str:
    """What ptxas says of it, for sm_90a."""
    (folder / "kernel.ptx").write_text(ptx)
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    command = [ptxas, "-arch=sm_90a", "-v", folder / "kernel.ptx", "-o", folder / "kernel.cubin"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("capability", "large"), [(80, False), (90, False), (90, True)])
def test_they_use_tensor_cores_and_read_and_write_16_bytes_at_once(
    capability, large, dtype, tmp_path, monkeypatch
):
    """All that the check at loading tries, in the sizes that a search uses on GPUs with little
    shared memory for a program and with much.
    """
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    if large:
        shared = cuda_convolution.LARGE_SHARED
        monkeypatch.setattr(cuda_convolution, "_shared", lambda device: shared)
    tried = 0
    for fan_in, fan_out, up in CONVOLUTIONS:
        shape = (fan_in, fan_out, 4, 4) if up else (fan_out, fan_in, 3, 3)
        given = Convolution(torch.zeros(*shape, dtype=dtype), up)
        if not (serves(fan_in, fan_out, dtype) and serves(fan_out, fan_in, dtype)):
            continue
        both = cuda.TritonConvolution(given)
        for packed in (both.forward, both.back) if up else (both.forward,):
            made = compiled(packed, capability)
            ptx = made.asm["ptx"]
            assert re.search("wgmma.mma_async" if capability == 90 else "mma.sync", ptx)
            read = re.findall(r"cp\.async\.c[ag]\.shared\.global .*?, (\w+),", ptx)
            assert all(int(size, 0) == 16 for size in read)
            for direction in ("ld", "st"):
                moved = re.findall(rf"{direction}\.global[.\w]*", ptx)
                assert moved and all(".v4.b32" in each for each in moved)
            if packed.tile.stages > 1:
                assert read
            limit = 163 if large else 99 if capability == 80 else 113  # KiB: of an A100, others
            assert made.metadata.shared <= limit * 1024
            if capability == 90:
                said = assembled(ptx, tmp_path)
                assert "0 bytes spill stores, 0 bytes spill loads" in said
                assert "serialized" not in said
            tried += 1
    assert tried == (8 if dtype == torch.bfloat16 else 5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [cuda_few_pixels.SAME, cuda_few_pixels.UP, cuda_few_pixels.DOWN])
def test_shares_use_tensor_cores_and_read_ahead(kind, dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    taps = 3 if kind == cuda_few_pixels.SAME else 4
    x = channels_last(torch.zeros(1, 512, 16, 16, dtype=dtype))
    kernel = channels_last(torch.zeros(512, 512, taps, taps, dtype=dtype))
    many = cuda_few_pixels.shares_of(x, kernel, kind)
    _, ((shares, _, arguments, constants), _) = cuda_few_pixels.launches(x, kernel, kind, many)
    made = compiled_launch(shares, arguments, constants, 90, aligned=(0, 1, 2, 6, 7, 8))
    assert "wgmma.mma_async" in made.asm["ptx"] and "cp.async" in made.asm["ptx"]
    assert made.metadata.shared <= 99 * 1024
    assert "0 bytes spill stores, 0 bytes spill loads" in assembled(made.asm["ptx"], tmp_path)


def test_many_pixels_are_left_to_cudnn_and_few_are_split():
    kernel = torch.empty(512, 512, 3, 3)
    for side, many in ((4, 12), (8, 12), (16, 8), (32, 1)):
        assert cuda_few_pixels.shares_of(torch.empty(1, 512, side, side), kernel, 0) == many
    assert cuda_few_pixels.shares_of(torch.empty(16, 512, 16, 16), kernel, 0) == 1
    # 18 products of 64 channels each, of 9 taps: two for each share
    kernel = torch.empty(512, 128, 3, 3)
    assert cuda_few_pixels.shares_of(torch.empty(1, 128, 4, 4), kernel, 0) == 9


@pytest.mark.skipif(bool(UNAVAILABLE), reason=UNAVAILABLE)
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_search_launches_them(monkeypatch, precision):
    launched = []
    monkeypatch.setattr("fast.cuda._launch", lambda kernel, *given, **more: launched.append(kernel))
    with fake_device("cuda", monkeypatch) as watch:
        kernels, settings = cuda.TritonKernels(), Settings(steps=3)
        search_on(watch, kernels, precision, 2, settings, fmap_base=128, fmap_max=16)
    number = launched.count(cuda_convolution.convolution)
    served = 0 if precision == "float32" else 5  # all but the two of 8 channels
    assert number == 5 * served  # the last of three steps has no gradient
    assert launched.count(cuda.cuda_kernels.moments) > 3


def test_those_that_do_not_run_are_left_to_cudnn_with_one_line(monkeypatch, caplog):
    """As on a GPU with too little shared memory."""

    def fail(*given):
        raise RuntimeError("out of resource: shared memory\nmore lines")

    monkeypatch.setattr(cuda, "first_wrong", lambda *given: None)
    monkeypatch.setattr(cuda, "first_wrong_convolution", fail)
    kernels, reason = cuda.load(torch.device("cpu"), "bfloat16")
    assert not kernels.convolves and not reason
    assert len(caplog.messages) == 1
    assert "(Triton failed: out of resource: shared memory)" in caplog.messages[0]


def test_kernels_that_compute_something_else_are_not_loaded(monkeypatch):
    monkeypatch.setattr(cuda, "first_wrong", lambda *given: "blur")
    kernels, reason = cuda.load(torch.device("cpu"), "bfloat16")
    assert kernels is None and reason.startswith("blur of Triton's kernels computes something else")


@pytest.mark.parametrize("check", ["first_wrong", "first_wrong_convolution"])
def test_a_mistake_of_ours_is_no_fault_of_triton(monkeypatch, check):
    monkeypatch.setattr(cuda, "first_wrong", lambda *given: None)
    monkeypatch.setattr(cuda, check, lambda *given: cuda.no_such_name)
    with pytest.raises(AttributeError):
        cuda.load(torch.device("cpu"), "bfloat16")
