"""The compiled form on CUDA, without a GPU: what its kernels compute, by Triton's interpreter; that
they compile for real GPUs; and what a step launches and moves.
"""

import json
import subprocess
import sys
from pathlib import Path

import count_kernels
import pytest
from fake_device import UNAVAILABLE

from fast import cuda_backward, cuda_kernels, cuda_step

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def interpreted() -> dict:
    command = [sys.executable, HERE / "interpreted.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["interpreted"] == ["InterpretedFunction"] * 2
    return found


def test_the_kernels_compute_what_pytorch_does(interpreted):
    assert interpreted["wrong"] == [None, None]
    assert interpreted["many tiles"] < 1e-5
    assert interpreted["long styles"] < 1e-5


def test_pictures_and_gradients_are_those_of_pytorchs_operations(interpreted):
    assert interpreted["float32"] < 1e-4 and interpreted["wide"] < 1e-4
    assert interpreted["in [0, 1]"] < 1e-4
    # They round what they store only, PyTorch's operations every number between.
    assert interpreted["bfloat16"] < interpreted["eager bfloat16"]


def test_what_the_search_computes_beside_the_network_is_pytorchs(interpreted):
    assert interpreted["geocross"] < 2e-6 and interpreted["downscaling"] < 2e-6
    assert interpreted["best"] is True
    assert interpreted["searched"] < 1e-4


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles_for_a_gpu(capability, flag, tmp_path, monkeypatch):
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
        made = compile(source, target=GPUTarget("cuda", capability, 32))
        assert f"sm_{capability}" in made.asm["ptx"]


@pytest.mark.skipif(bool(UNAVAILABLE), reason=UNAVAILABLE)
def test_a_step_launches_few_kernels_and_moves_little_memory():
    """At 1024 pixels, in float32; the eager form beside it shows that both are counted."""
    eager, compiled = (
        count_kernels.of_a_step(form, "float32", 1024) for form in count_kernels.FORMS
    )
    assert eager.launches > 600 and eager.bytes > 9e9
    assert compiled.launches < 270 and compiled.bytes < 3.3e9
