"""What bench.py holds the fast form of StyleGAN3 against computes the same."""

import pytest
import torch
from stylegan3_networks import random_stylegan3

from benchmarks import stylegan3_steps
from generators import stylegan3

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_straightforward_formulation_is_the_same_function():
    torch.manual_seed(0)
    x, half = torch.randn(1, 2, 11, 13).double(), torch.rand(6).double()
    f = torch.cat([half, half.flip(0)])
    for up, padding in ((2, (9, 8, -2, 3)), (4, (-1, 5, 0, 2))):
        found = stylegan3_steps.upsample_over_zeros(x, f, up, padding)
        assert torch.allclose(found, stylegan3.upsample(x, f, up, padding))
    for each in (f, torch.outer(f, f)):
        found = stylegan3_steps.downsample_of_all(x.repeat(1, 1, 2, 2), each, 2)
        assert torch.allclose(found, stylegan3.downsample(x.repeat(1, 1, 2, 2), each, 2))


@pytest.mark.parametrize("formulation", [stylegan3_steps.INSERTED, "plain", "eager", "compiled"])
def test_a_step_of_each_formulation_is_timed(monkeypatch, tmp_path, formulation):
    monkeypatch.setattr(
        stylegan3_steps, "published", lambda family, resolution: random_stylegan3(64, depth=4)
    )
    for name in ("upsample", "downsample"):
        monkeypatch.setattr(stylegan3, name, getattr(stylegan3, name))  # restored afterwards
    figures = stylegan3_steps.time_step(
        "stylegan3-t", 64, formulation, "float32", "cpu", 2, str(tmp_path)
    )
    assert len(figures["seconds"]) == 2 and min(figures["seconds"]) > 0
    assert figures["peak_mb"] > 100
    replaced = stylegan3.upsample is stylegan3_steps.upsample_over_zeros
    assert replaced == (formulation == stylegan3_steps.INSERTED)


def test_rows_at_1024_pixels_leave_out_what_takes_minutes():
    forms = ["eager", "compiled"]
    names = [form for form, _ in stylegan3_steps.rows_for(256, ["float32", "bfloat16"], forms)]
    assert names == [stylegan3_steps.INSERTED, "plain", *forms, *forms]
    assert stylegan3_steps.rows_for(1024, ["float32"], forms) == [(f, "float32") for f in forms]
