"""Consistency and PSNR are those computed by hand and by torchmetrics; SSIM, LPIPS and NIQE are
those of their packages, or one sentence says what is missing.
"""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from result_folders import RECORDS, flat, noise, put

from bicubic import BicubicDownSample
from evaluation import metrics
from imaging.pictures import to_picture, to_tensor


@pytest.mark.parametrize(("value", "offset"), [(100, 10), (200, -51)])
def test_a_constant_offset_has_the_l2_and_psnr_computed_by_hand(scene, value, offset):
    scene.add("a", flat(value + offset), flat(value, 8))
    done = scene.figures()
    assert done.PNG["l2"] == pytest.approx((offset / 255) ** 2, rel=1e-12)
    assert done.PNG["psnr"] == pytest.approx(20 * math.log10(255 / abs(offset)), rel=1e-12)
    assert done.PNG["within_eps"]["within"] == (1 if (offset / 255) ** 2 <= 0.002 else 0)
    assert done.rows[RECORDS]["l2"] == 0.0015  # the record's own, not measured again


def test_the_l2_of_pictures_is_that_of_the_downscaling_operator_not_of_block_means(scene):
    HR = noise(32, 1)
    small = BicubicDownSample(4)(to_tensor(HR)[None])[0]
    LR = to_picture(small)
    scene.add("a", HR, LR)
    expected = (small - to_tensor(LR)).square().mean().item()
    assert scene.figures().PNG["l2"] == pytest.approx(expected, rel=1e-4)
    blocks = to_tensor(HR).reshape(3, 8, 4, 8, 4).mean((2, 4))
    assert (blocks - to_tensor(LR)).square().mean().item() > 100 * expected


def test_true_hr_gives_the_figures_of_torchmetrics_and_is_said_to_be_no_goal(scene):
    from torchmetrics.functional.image import structural_similarity_index_measure
    from torchmetrics.image import PeakSignalNoiseRatio

    pairs = [(noise(32, 1), noise(32, 2)), (flat(90), flat(100)), (noise(32, 3), flat(7))]
    reference, likeness = PeakSignalNoiseRatio(data_range=1.0), []
    for i, (HR, true) in enumerate(pairs):
        scene.add(f"{i}", HR, flat(100, 8))
        put("true", f"{i}.bmp", true)  # the stem tells whose it is
        reference.update(to_tensor(HR), to_tensor(true))
        likeness.append(
            structural_similarity_index_measure(
                to_tensor(HR)[None], to_tensor(true)[None], data_range=1.0
            ).item()
        )
    done = scene.figures("-hr_dir", "true")
    assert done.PNG["hr_psnr"] == pytest.approx(reference.compute().item(), rel=1e-5)
    assert done.PNG["ssim"] == pytest.approx(np.mean(likeness), rel=1e-5)
    assert done.rows["true HR"]["pictures"] == 3 and done.rows["nearest"]["hr_psnr"] > 0
    assert "hr_psnr" not in done.rows["true HR"] or done.rows["true HR"]["hr_psnr"] is None
    text = " ".join(done.stdout.split())
    assert "no goal of PULSE" in text and "SSIM: torchmetrics" in text


def test_the_psnr_of_a_consistency_is_that_of_torchmetrics():
    from torchmetrics.functional.image import peak_signal_noise_ratio

    for seed in range(3):
        HR, LR = to_tensor(noise(64, seed)), to_tensor(noise(16, seed + 9))
        reference = peak_signal_noise_ratio(
            BicubicDownSample(4)(HR[None]), LR[None], data_range=1.0
        )
        assert metrics.psnr(metrics.consistency(HR, LR)) == pytest.approx(
            reference.item(), rel=1e-5
        )


# ---------------------------------------------------------------- measures that may be missing


def alexnet_file(hub):
    """Weights of torchvision's AlexNet under its name; the classifier is one zero, expanded."""
    from torchvision.models import AlexNet_Weights, alexnet

    with torch.device("meta"):
        shapes = {key: value.shape for key, value in alexnet().state_dict().items()}
    torch.manual_seed(0)
    state = {
        key: torch.zeros(1).expand(shape) if "classifier" in key else torch.randn(shape) / 10
        for key, shape in shapes.items()
    }
    path = Path(hub) / "hub" / "checkpoints" / AlexNet_Weights.DEFAULT.url.rsplit("/")[-1]
    path.parent.mkdir(parents=True)
    torch.save(state, path)


def test_lpips_is_measured_where_its_weights_are_at_hand(scene):
    alexnet_file(scene.folder / "hub")
    scene.add("a_1", noise(32, 1), flat(100, 8), "a.png")
    scene.add("a_2", noise(32, 2), flat(100, 8), "a.png")
    put("true", "a.png", noise(32, 1))
    done = scene.figures("-hr_dir", "true")
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as reference

    a, b = (to_tensor(noise(32, seed))[None] for seed in (1, 2))
    distance = reference(a, b, net_type="alex", normalize=True).item()
    by_name = {row.get("name"): row.get("lpips") for row in done.document["pictures"]}
    assert by_name["a_1"] == pytest.approx(0, abs=1e-6)
    assert by_name["a_2"] == pytest.approx(distance, rel=1e-4) and distance > 0.01
    assert done.PNG["diversity_lpips"] == pytest.approx(distance, rel=1e-4)
    assert "LPIPS: AlexNet, torchmetrics" in done.stdout


def test_lpips_without_weights_is_one_sentence_that_says_where_they_belong(scene):
    for i in (1, 2):
        scene.add(f"a_{i}", noise(32, i), flat(100, 8), "a.png")
    done = scene.figures()
    assert done.returncode == 0  # nothing is wrong with the folder
    text = " ".join(done.stdout.split())
    place = scene.folder / "hub" / "hub" / "checkpoints" / "alexnet-"
    assert text.count("LPIPS is left out") == 1
    assert str(place) in text.replace("- ", "-") and "fetch it from https://" in text
    assert not (scene.folder / "hub").exists()  # nothing was downloaded
    assert "diversity, LPIPS" not in done.stdout


PYIQA = """
import torch
def create_metric(name, device=None):
    assert name == "niqe"
    return lambda picture: picture.mean(dim=(1, 2, 3)) * {scale}
"""


@pytest.fixture
def pyiqa(tmp_path, monkeypatch):
    """A stand-in for the package, whose NIQE is the mean, and its parameters."""

    def install(code, parameters=True):
        package = tmp_path / "site"
        package.mkdir()
        (package / "pyiqa.py").write_text(code)
        (package / "pyiqa-9.8.7.dist-info").mkdir()
        (package / "pyiqa-9.8.7.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: pyiqa\nVersion: 9.8.7\n"
        )
        if parameters:
            (tmp_path / "hub" / "hub" / "pyiqa").mkdir(parents=True)
            (tmp_path / "hub" / "hub" / "pyiqa" / "niqe_modelparameters.mat").write_bytes(b"")
        monkeypatch.syspath_prepend(package)
        monkeypatch.delitem(sys.modules, "pyiqa", raising=False)

    yield install
    sys.modules.pop("pyiqa", None)


def test_niqe_is_measured_by_pyiqa_and_names_its_version(scene, pyiqa):
    pyiqa(PYIQA.format(scale=10))
    scene.add("a", flat(51, 192), flat(51, 8))
    put("true", "a.png", flat(102, 192))
    done = scene.figures("-hr_dir", "true")
    assert done.PNG["niqe"] == pytest.approx(2) == done.rows["bicubic"]["niqe"]
    assert done.rows["true HR"]["niqe"] == pytest.approx(4)  # as the paper's table has it
    assert "NIQE: pyiqa 9.8.7." in done.stdout


def test_niqe_is_left_out_with_a_sentence_without_the_package(scene, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)  # as if it were not installed, if it is
    scene.add("a", flat(51, 192), flat(51, 8))
    done = scene.figures()
    assert done.returncode == 0 and done.PNG["niqe"] is None
    text = " ".join(done.stdout.split())
    assert "NIQE is left out: the package pyiqa is not installed (pip install pyiqa)." in text


@pytest.mark.parametrize(
    ("code", "parameters", "side", "sentence"),
    [
        (PYIQA.format(scale=1), False, 192, "niqe_modelparameters.mat is missing, and nothing is"),
        ("import no_such_module_of_pyiqa", True, 192, "its package or its weights failed (No mod"),
        ("raise RuntimeError('half\\ninstalled')", True, 192, "failed (half installed): reinstall"),
        (PYIQA.format(scale="float('nan')"), True, 192, "NIQE gave no number 3 times."),
        (PYIQA.format(scale=1), True, 64, "NIQE is left out for pictures of less than 192 pixels."),
    ],
)
def test_what_niqe_lacks_is_one_sentence_and_the_rest_is_evaluated(
    scene, pyiqa, code, parameters, side, sentence
):
    pyiqa(code, parameters)
    scene.add("a", flat(51, side), flat(51, 8))
    done = scene.figures()
    text = " ".join(done.stdout.split())
    assert text.count(sentence) == 1 and text.count("NIQE is left out") <= 1
    assert done.returncode == 0 and done.PNG["l2"] == 0 and done.PNG["niqe"] is None
