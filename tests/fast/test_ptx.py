"""The compiled form on CUDA, without a GPU: what Triton's compiler has made of its kernels, run by
ptx_machine.py. And that machine.
"""

import re

import numpy as np
import pytest

triton = pytest.importorskip("triton", reason="PyTorch comes without Triton here")

import kernel_cases  # noqa: E402
import torch  # noqa: E402
import triton.language as tl  # noqa: E402
from ptx_code import PTXError, parse  # noqa: E402
from ptx_launch import Launch  # noqa: E402
from ptx_machine import Tensors, run  # noqa: E402

from fast import cuda, cuda_backward, cuda_kernels, cuda_step  # noqa: E402
from fast.kernel_check import first_wrong  # noqa: E402


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Of a kernel, on the machine; what Triton compiles is kept for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield Launch()


@pytest.fixture
def kernels(launch, monkeypatch) -> cuda.TritonKernels:
    monkeypatch.setattr(cuda, "_launch", launch)
    return cuda.TritonKernels()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_kernels_compute_what_pytorch_does(kernels, launch, dtype):
    launch.launched.clear()
    assert first_wrong(kernels, dtype) is None
    every = vars(cuda_kernels) | vars(cuda_backward) | vars(cuda_step)
    names = {name for name, each in every.items() if isinstance(each, triton.JITFunction)}
    assert launch.launched.keys() == {name for name in names if name[0] != "_"}


def test_compiled_kernels_of_several_programs_and_odd_sizes(kernels, monkeypatch):
    for name, value in (("TILE", 256), ("TILE_OF_GRADIENTS", 128), ("ROWS", 3)):
        monkeypatch.setattr(cuda, name, value)
    torch.manual_seed(0)
    assert kernel_cases.many_tiles() < 1e-5
    assert kernel_cases.long_styles() < 1e-5
    assert kernel_cases.geocross_like_pytorchs() < 2e-6
    assert kernel_cases.downscaling_like_pytorchs() < 2e-6
    assert kernel_cases.best_is_pytorchs() is True


@triton.jit
def two_before(x, out, rows, OWN: tl.constexpr, SIZE: tl.constexpr):
    """Row i of out is x[i − 2] + 2·x[i − 1], where rows before the first are 0."""
    at = tl.arange(0, SIZE)
    before = tl.zeros((SIZE,), tl.float32)
    latest = before
    if OWN:
        latest = tl.zeros((SIZE,), tl.float32)
    for row in range(rows):
        tl.store(out + row * SIZE + at, before + 2 * latest)
        before, latest = latest, tl.load(x + row * SIZE + at)


@pytest.mark.parametrize("own", [True, False])
def test_one_tensor_under_two_names_before_a_loop_is_run_as_compiled(launch, own):
    """To find what a loop changes, Triton 3.6 and 3.8 go through its body once, and take `before`
    for unchanged where `latest`, which it becomes, was the same tensor. So they compile it as
    always 0, if the zeros are not its `own`, whereas the interpreter does what is written.
    """
    x = torch.arange(6 * 128.0).view(6, 128)
    earlier = [torch.cat([torch.zeros(i, 128), x[: 6 - i]]) for i in (1, 2)]
    out, launch = torch.empty_like(x), Launch()
    launch(two_before, (1,), x, out, 6, OWN=own, SIZE=128)
    ((made, _),) = launch.variants.values()
    changed = re.search(r"scf\.for .* iter_args\((.*?)\) ->", made.asm["ttir"])[1].count("=")
    assert changed == 2 if own else changed in (1, 2)
    assert torch.equal(out, 2 * earlier[0] + (earlier[1] if changed == 2 else 0))


@triton.jit
def sums_of_both_axes(x, down, along, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    value = tl.load(x + row[:, None] * COLUMNS + column[None, :])
    tl.store(down + column, tl.sum(value, axis=0))
    tl.store(along + row, tl.sum(value, axis=1))


@pytest.mark.parametrize("warps", [1, 4, 8])
def test_sums_across_threads_and_warps(launch, warps):
    x = torch.randint(-99, 99, (64, 32)).float()
    down, along = torch.empty(32), torch.empty(64)
    launch(sums_of_both_axes, (1,), x, down, along, ROWS=64, COLUMNS=32, num_warps=warps)
    assert torch.equal(down, x.sum(0)) and torch.equal(along, x.sum(1))
    (code,) = (
        code
        for made, code in launch.variants.values()
        if code.name == "sums_of_both_axes" and made.metadata.num_warps == warps
    )
    used = {each.parts[:2] for each in code.instructions}
    assert used >= {("shfl", "sync"), ("st", "shared"), ("ld", "shared")}


@triton.jit
def through_bfloat16(x, rounded, back, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    value = tl.load(x + i).to(tl.bfloat16)
    tl.store(rounded + i, value)
    tl.store(back + i, value.to(tl.float32))


def test_rounding_to_bfloat16(launch):
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3.4e38, -3.4e38, 1e-40])
    ties = (torch.arange(120) * 0x8000 + 0x3F800000).int().view(torch.float32)
    x = torch.cat([special, ties, torch.randn(128)])
    rounded, back = torch.empty(256, dtype=torch.bfloat16), torch.empty(256)
    launch(through_bfloat16, (1,), x, rounded, back, SIZE=256)
    number = ~x.isnan()
    for found, right in ((rounded, x.bfloat16()), (back, x.bfloat16().float())):
        assert torch.equal(found[number], right[number]) and found[~number].isnan().all()
        assert torch.equal(found.signbit()[number], x.signbit()[number])


@triton.jit
def some(x, out, n, SIZE: tl.constexpr):
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(out + i, tl.load(x + i, mask=i < n, other=7.0), mask=i % 3 == 0)


def test_masked_loads_and_stores(launch):
    x, out = torch.randn(150), torch.full((256,), 5.0)
    launch(some, (2,), x, out, 150, SIZE=128)
    expected = torch.cat([x, torch.full((106,), 7.0)])
    expected[torch.arange(256) % 3 != 0] = 5
    assert torch.equal(out, expected)


def test_what_is_outside_a_tensor_is_not_touched(launch):
    whole = torch.randn(2, 160)
    with pytest.raises(PTXError, match="some: .*ld.global.*: an access outside the tensors"):
        launch(some, (2,), whole[0, :150], torch.empty(256), 151, SIZE=128)
    with pytest.raises(PTXError, match="some: .*st.global.*: an access outside the tensors"):
        launch(some, (2,), whole[0], torch.empty(255), 151, SIZE=128)


@triton.jit
def of_integers(a, b, out, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    one, other = tl.load(a + i), tl.load(b + i)
    tl.store(out + i, one // other)
    tl.store(out + SIZE + i, one % other)
    tl.store(out + 2 * SIZE + i, one * other)
    tl.store(out + 3 * SIZE + i, (one >> 3) ^ (other << 2))


def test_integers_are_a_gpus(launch):
    """Quotients are rounded towards zero, and products are modulo 2^32."""
    a, b = torch.randint(-(2**31), 2**31, (2, 128), dtype=torch.int32)
    b[:64] = b[:64] % 9 - 10
    out = torch.empty(4, 128, dtype=torch.int32)
    launch(of_integers, (1,), a, b, out, SIZE=128)
    quotient = torch.div(a, b, rounding_mode="trunc")
    assert torch.equal(out, torch.stack([quotient, a.fmod(b), a * b, (a >> 3) ^ (b << 2)]))


@triton.jit
def rounds(out):
    total = 0
    for i in range(tl.program_id(0)):
        total += i * tl.num_programs(1)
    tl.store(out + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), total)


def test_programs_may_go_different_ways(launch):
    out = torch.empty(3, 5, dtype=torch.int32)
    launch(rounds, (5, 3), out)
    assert out.tolist() == [[0, 0, 3, 9, 18]] * 3


PTX = """
.visible .entry small(
	.param .u64 small_param_0
)
.reqntid 64
{
	.reg .pred 	%p<9>;
	.reg .b16 	%rs<9>;
	.reg .b32 	%r<9>;
	.reg .b64 	%rd<9>;
	ld.param.b64 	%rd1, [small_param_0];
	mov.u32 	%r1, %tid.x; // the number of a thread
	mad.wide.s32 	%rd2, %r1, 8, %rd1;
	BODY;
	st.global.b64 	[ %rd2 + 0 ], { %rd3 };
$end:
	ret;
}
"""


def small(body: str) -> np.ndarray:
    """What 64 threads have in %rd3 after these instructions."""
    memory = Tensors([np.zeros(64 * 8, np.uint8)])
    (at,) = memory.places
    memory.open[at : at + 64 * 8] = True
    run(parse(PTX.replace("BODY", body)), [at], (1, 1, 1), memory, shared=64)
    return memory.bytes[at : at + 64 * 8].view(np.int64)


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("bfe.s32 %r2, 86, 4, 3", -3),
        ("bfe.u32 %r2, 86, 4, 3", 5),
        ("bfe.u32 %r2, -1, 3, 32", 2**29 - 1),
        ("mad.lo.s32 %r2, 1073741824, 4, -5", -5),
        ("mad.wide.s32 %rd3, -2147483648, 4, 1", 1 - 2**33),
        ("mul.wide.u32 %rd3, -2147483648, 4", 2**33),
        ("mul.hi.s32 %r2, -2147483648, 4", -2),
        ("shl.b32 %r2, 1, 32", 0),
        ("shr.s32 %r2, -8, 40", -1),
        ("shr.u32 %r2, -8, 28", 15),
        ("div.s32 %r2, -7, 2", -3),
        ("rem.s32 %r2, -7, 2", -1),
        ("prmt.b32 %r2, 0x03020180, 0x07060504, 0x8643", 0xFF060403 - 2**32),
        ("setp.lt.s32 %p1, -1, 0", 1),
        ("setp.lt.u32 %p1, -1, 0", 0),
        ("setp.ne.f32 %p1, 0f7FC00000, 0f3F800000", 0),  # not a number, and 1
        ("setp.neu.f32 %p1, 0f7FC00000, 0f3F800000", 1),
        ("max.f32 %r2, 0f7FC00000, 0f3F800000", 0x3F800000),
        ("fma.rn.f32 %r2, 0f3F800800, 0f3F800800, 0fBF801000", 0x33800000),  # (1 + 2⁻¹²)²
        ("selp.b32 %r2, 3, 4, 0", 4),
        ("cvt.s64.s32 %rd3, -3", -3),
        ("cvt.u64.u32 %rd3, -3", 2**32 - 3),
        ("cvt.rn.f32.s32 %r2, 16777217", 0x4B800000),  # of two as near the even one
        ("cvt.rn.bf16x2.f32 %r2, 0f3F800000, 0f40000000", 0x3F804000),
        ("mov.b64 {%r3, %r2}, 0x0000000500000006", 5),
        ("mov.b32 %r2, {1, 2}", 0x20001),
    ],
)
def test_instructions_of_numbers(instruction, expected):
    if "%p1" in instruction:
        instruction += "; selp.b32 %r2, 1, 0, %p1"
    if "%r2" in instruction:
        instruction += "; cvt.s64.s32 %rd3, %r2"
    assert small(instruction).tolist() == [expected] * 64


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ("shfl.sync.bfly.b32 %r2, %r1, 20, 31, -1", lambda thread: thread ^ 20),
        ("shfl.sync.idx.b32 %r2, %r1, 3, 31, -1", lambda thread: thread // 32 * 32 + 3),
        (
            "setp.lt.s32 %p1, %r1, 5; mov.b32 %r2, 9; @!%p1 mov.b32 %r2, %r1",
            lambda thread: 9 if thread < 5 else thread,
        ),
        (
            "setp.eq.b32 %p1, %r1, 40; @%p1 st.shared.v2.b32 [global_smem+8], {%r1, 6}; "
            "bar.sync 0; ld.shared.b32 %r2, [global_smem+8]",
            lambda thread: 40,
        ),
    ],
)
def test_instructions_of_several_threads(instructions, expected):
    found = small(f"{instructions}; cvt.u64.u32 %rd3, %r2")
    assert found.tolist() == [*map(expected, range(64))]


@pytest.mark.parametrize(
    ("instructions", "reason"),
    [
        ("tanh.approx.f32 %r2, 1", "that this machine does not have"),
        ("add.rz.f32 %r2, 1, 1", "that this machine does not have"),
        ("add.s32 %r2, 1", "1 operands are not 2"),
        ("ld.global.nc.b32 %r2, [%rd1]", "that this machine does not have"),
        ("shfl.sync.up.b32 %r2, %r1, 1, 31, -1", "that this machine does not have"),
        ("add.s32 %r2, %r7, 1", "%r7 has not been written"),
        ("mov.b64 %r2, %rd1", "does not fit into %r2"),
        ("setp.lt.s32 %p1, %r1, 7; @%p1 bra $end", "threads of one program go different ways"),
        ("setp.lt.s32 %p1, %r1, 7; @%p1 ret", "threads of one program go different ways"),
        ("setp.lt.s32 %p1, %r1, 7; @%p1 bar.sync 0", "not all threads wait"),
        ("ld.global.b32 %r2, [%rd1+2]", "an address that is no multiple of 4"),
        ("ld.global.v2.b32 {%r2, %r3}, [%rd1+4]", "an address that is no multiple of 8"),
        ("ld.global.b32 %r2, [%rd1+512]", "an access outside the tensors"),
        ("ld.global.b32 %r2, [%rd1+-4]", "an access outside the tensors"),
        ("st.shared.b32 [global_smem+64], 1", "an access outside"),
        ("st.shared.b32 [global_smem+1024], 1", "an access outside the program's shared memory"),
    ],
)
def test_the_machine_refuses(instructions, reason):
    with pytest.raises(PTXError, match=re.escape(reason)):
        small(f"{instructions}; mov.b64 %rd3, 0")
