"""Convolutions of the compiled form on CUDA, without a GPU: what Triton's compiler has made of them
for tensor cores of capability 8.0, run by ptx_machine.py.
"""

import pytest

triton = pytest.importorskip("triton", reason="PyTorch comes without Triton here")

import torch  # noqa: E402
import triton.language as tl  # noqa: E402
from ptx_launch import Launch  # noqa: E402

from fast import cuda  # noqa: E402
from fast.kernel_check import first_wrong_convolution  # noqa: E402


@pytest.fixture
def launch(tmp_path, monkeypatch) -> Launch:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return Launch(capability=80)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_compiled_convolutions_compute_what_pytorch_does(launch, precision, monkeypatch):
    monkeypatch.setattr(cuda, "_launch", launch)
    assert first_wrong_convolution(cuda.TritonKernels(), precision) is None
    assert launch.launched.keys() == {"convolution", "shares", "add_shares"}
    used = {each.parts[0] for _, code in launch.variants.values() for each in code.instructions}
    assert used >= {"mma", "ldmatrix", "cp"}


@triton.jit
def product(a, b, out, SIZE: tl.constexpr):
    """The first 20 rows of a·b, and zeros."""
    i, j = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    total = tl.zeros((SIZE, SIZE), tl.float32)
    for begin in range(0, 4 * SIZE, SIZE):
        left = tl.load(a + i * 4 * SIZE + begin + j, mask=i < 20, other=0.0)
        right = tl.load(b + (begin + i) * SIZE + j)
        total = tl.dot(left, right, total, input_precision="tf32")
    tl.store(out + i * SIZE + j, total)


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_matrices(launch, dtype, stages):
    a = torch.randint(-9, 9, (32, 128)).to(dtype)
    b = torch.randint(-9, 9, (128, 32)).to(dtype)
    out = torch.empty(32, 32)
    launch(product, (1,), a, b, out, SIZE=32, num_stages=stages)
    expected = a.float() @ b.float()
    expected[20:] = 0
    assert torch.equal(out, expected)
