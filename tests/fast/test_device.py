"""Devices that are listed and cannot be used: one sentence each, with `auto` the CPU and one line.

The devices are stand-ins: torch.cuda's answers, and what a first kernel on such a device raises.
"""

import pytest
import torch
from PIL import Image

import PULSE
from cli.errors import UserError
from fast import device as devices
from fast.device import choose_device, missing_operation

BUILT_FOR = ["sm_75", "sm_80", "sm_90a", "compute_120"]
TOO_OLD = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors"
HELD = "CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors"


@pytest.fixture
def cuda(monkeypatch):
    """cuda(count, capability, error): as many devices, whose first kernel raises `error`."""

    def stand_in(count=1, capability=(9, 0), error=None, current=0):
        def run_kernel(device):
            tried.append(str(device))
            if error:
                raise RuntimeError(error)

        answers = {
            "is_available": lambda: True,
            "device_count": lambda: count,
            "current_device": lambda: current,
            "get_device_name": lambda device: "NVIDIA X",
            "get_device_capability": lambda device: capability,
            "get_arch_list": lambda: BUILT_FOR,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        monkeypatch.setattr(devices, "run_kernel", run_kernel)
        tried = []
        return tried

    return stand_in


@pytest.mark.parametrize(
    ("capability", "error", "expected"),
    [
        (
            (7, 0),
            TOO_OLD,
            "too old for this PyTorch (compute capability 7.0, built for 7.5",
        ),
        ((13, 1), TOO_OLD, "too new for this PyTorch (compute capability 13.1, built for 7.5"),
        ((6, 1), "cuDNN version 92400 is not compatible with devices with SM < 7.5.", "too old"),
        ((9, 0), HELD, "held by another program, or its memory is full"),
        ((9, 0), "CUDA out of memory. Tried to allocate 2 MiB", "held by another program, or its"),
        (
            (9, 0),
            "CUDA error: device-side trouble",
            "does not work (CUDA error: device-side trouble)",
        ),
        ((9, 0), "", "does not work"),
    ],
)
def test_a_device_that_cannot_be_used_is_one_sentence_and_with_auto_the_cpu(
    cuda, caplog, capability, error, expected
):
    tried = cuda(capability=capability, error=error or " ")
    with pytest.raises(UserError) as raised:
        choose_device("cuda")
    assert expected in str(raised.value) and "or cpu" in str(raised.value)
    assert "NVIDIA X (cuda:0)" in str(raised.value) and "\n" not in str(raised.value)
    assert not caplog.messages
    assert choose_device("auto") == torch.device("cpu")
    assert len(caplog.messages) == 1 and expected in caplog.messages[0]
    assert caplog.messages[0].endswith(": the CPU is used")
    assert tried == ["cuda:0", "cuda:0"]


def test_devices_that_do_not_exist_are_named(cuda):
    for name in ("tpu", "cpu:x", "cpu:1", "cuda:-1", "cuda:x", "cuda:", "mps:1", "CUDA", ""):
        with pytest.raises(UserError, match="misspelt: use auto, cpu, cuda"):
            choose_device(name)
    cuda(count=1)
    with pytest.raises(UserError, match="'cuda:9' does not exist: .* are cuda:0 alone"):
        choose_device("cuda:9")
    cuda(count=4)
    with pytest.raises(UserError, match="'cuda:4' does not exist: .* are cuda:0 to cuda:3"):
        choose_device("cuda:4")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this is a Mac with MPS")
def test_mps_elsewhere_than_on_a_mac_says_so():
    with pytest.raises(UserError, match="'mps' is not available here .only on a Mac.: use auto or"):
        choose_device("mps")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_gpu_says_why():
    with pytest.raises(UserError, match=r"'cuda' is not available here \(.+\): use auto or cpu"):
        choose_device("cuda")
    assert choose_device("auto").type in ("cpu", "mps")


def test_each_process_of_a_machine_tries_its_own_gpu_and_no_other(cuda):
    tried = cuda(count=2, current=1)
    assert [str(choose_device("auto", local_rank=rank)) for rank in range(3)] == [
        *("cuda:0", "cuda:1", "cuda:0")
    ]
    assert str(choose_device("cuda")) == "cuda:1"  # of a program that has chosen its device itself
    assert str(choose_device("cuda:0", local_rank=1)) == "cuda:0"
    assert tried == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]


def test_the_hash_of_a_generator_is_made_before_its_weights_leave_the_cpu(
    monkeypatch, tmp_path, tiny
):
    """Asked for later, by the thread that writes, it would copy from the device every weight."""
    expected = PULSE.PULSE(tiny, "cpu", tmp_path).generator.sha256
    monkeypatch.setattr(PULSE, "choose_device", lambda name: torch.device("meta"))
    model = PULSE.PULSE(tiny, "cuda", tmp_path)
    assert model.generator.mean.is_meta  # from where nothing can be copied
    assert model.generator.sha256 == expected


def test_an_operation_that_mps_lacks_names_what_helps():
    error = NotImplementedError(
        "The operator 'aten::foo' is not currently implemented for the MPS device. If you want\n…"
    )
    sentence = missing_operation(error, torch.device("mps"))
    assert "aten::foo" in sentence and "PYTORCH_ENABLE_MPS_FALLBACK=1" in sentence
    assert "PYTORCH" not in missing_operation(error, torch.device("cuda", 0))


def test_run_ends_with_status_2_and_one_sentence_for_a_device_that_cannot_be_used(
    called, tmp_path, tiny
):
    (tmp_path / "input").mkdir()
    Image.new("RGB", (4, 4), "grey").save(tmp_path / "input" / "a.png")
    for name in ("cuda:77", "cpu:x", "mps" if not torch.backends.mps.is_available() else "mps:9"):
        done = called("run.py", "-generator", tiny, "-device", name, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1 and f"device {name!r}" in done.stderr
        assert not (tmp_path / "runs").exists()
