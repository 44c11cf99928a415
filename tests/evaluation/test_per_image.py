"""Each result is measured against its LR, true HR and clean LR, with simple enlargements beside it;
what cannot be used is one sentence, and the rest is measured.
"""

import math
from pathlib import Path

import pytest
from PIL import Image
from result_folders import RECORDS, flat, noise, put

from evaluation import metrics
from evaluation.per_image import COLUMNS, Evaluation
from evaluation.results import PictureFolder, Problems, read_results


def test_diversity_is_the_mean_rmse_over_all_pairs_of_one_input(scene):
    for i, value in enumerate((0, 51, 102)):
        scene.add(f"a_{i + 1}", flat(value), flat(0, 8), "a.png", duplicate=i)
    for i, value in enumerate((200, 251)):
        scene.add(f"b_{i + 1}", flat(value), flat(200, 8), "b.png", duplicate=i)
    scene.add("c", flat(0), flat(0, 8))  # alone: no pair, no diversity
    done = scene.figures()
    by_input = {row["input"]: row["rmse"] for row in done.document["diversity"]}
    assert by_input == {"a.png": pytest.approx((0.2 + 0.2 + 0.4) / 3), "b.png": pytest.approx(0.2)}
    assert done.PNG["diversity_rmse"] == pytest.approx((0.8 / 3 + 0.2) / 2)


def test_nearest_and_bicubic_stand_beside_pulse_once_per_input(scene):
    LR = noise(8, 3)
    for i in (1, 2):
        scene.add(f"a_{i}", noise(32, i), LR, "a.png", duplicate=i - 1)
    done = scene.figures()
    for name, resample in (("nearest", Image.NEAREST), ("bicubic", Image.BICUBIC)):
        enlarged = metrics.pixels(LR.resize((32, 32), resample))
        expected = metrics.consistency(enlarged, metrics.pixels(LR))
        assert done.rows[name]["l2"] == expected
        assert done.rows[name]["pictures"] == 1
    assert "best_step" not in done.rows["nearest"]


def test_clean_measures_against_the_undegraded_lr_as_well(scene):
    scene.add("a", flat(100), flat(120, 8))
    put("clean", "a.png", flat(110, 8))
    done = scene.figures("-clean", "clean")
    assert done.PNG["l2"] == pytest.approx((20 / 255) ** 2)
    assert done.PNG["clean_l2"] == pytest.approx((10 / 255) ** 2)
    assert done.PNG["clean_psnr"] == pytest.approx(20 * math.log10(255 / 10))
    assert done.rows["nearest"]["clean_l2"] == pytest.approx((10 / 255) ** 2)
    assert "L2 clean" in done.stdout


def test_a_damaged_picture_is_named_and_the_others_of_its_input_are_measured(scene):
    place = scene.add("a_1", noise(32), flat(100, 8), "a.png")
    scene.add("a_2", flat(110), flat(100, 8), "a.png")
    place.write_bytes(place.read_bytes()[:200])
    done = scene.figures()
    assert done.returncode == 1 and done.PNG["pictures"] == 1
    assert done.PNG["l2"] == pytest.approx((10 / 255) ** 2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("a_1.png: left out, it is damaged or cut off")
    place.with_name("a_2.png").write_bytes(b"no picture")
    done = scene("-csv", "o.csv")
    assert done.returncode == 1 and "no result could be evaluated" in done.stderr
    assert not Path("o.csv").exists()


def test_lr_that_are_missing_or_others_are_named_and_not_used(scene):
    scene.add("right", flat(110), flat(100, 8))
    scene.add("wrong", flat(110), flat(100, 8))
    scene.add("missing", flat(110), flat(100, 8))
    flat(101, 8).save("input/wrong.png")
    Path("input/missing.png").unlink()
    done = scene.figures()
    assert done.returncode == 1
    assert done.rows[RECORDS]["pictures"] == 3 and done.rows["nearest"]["pictures"] == 1
    assert done.PNG["l2"] == pytest.approx((10 / 255) ** 2)
    assert done.PNG["within_eps"]["of"] == 1
    assert done.stderr.splitlines()[0] == (
        "missing.png: -input_dir input: no picture has its name: put it there under that name"
    )
    assert "wrong.png: -input_dir input: it is another picture than" in done.stderr


def test_without_any_lr_the_records_are_evaluated(scene):
    scene.add("a", flat(110), flat(100, 8))
    Path("input").rename("elsewhere")
    done = scene.figures()
    assert done.returncode == 1 and "input: no such folder" in done.stderr
    assert done.rows[RECORDS]["l2"] == 0.0015 and done.PNG["l2"] is None
    assert "nearest" not in done.rows
    assert scene.figures("-input_dir", "elsewhere").returncode == 0
    assert scene.figures("-input_dir", "elsewhere/a.png").PNG["l2"] > 0  # one file, as of run.py
    assert scene("-input_dir", "nowhere").returncode == 2


def test_true_hr_and_clean_lr_of_other_sizes_or_missing_are_one_sentence_each(scene):
    for name in "abc":
        scene.add(name, flat(110), flat(100, 8))
    put("true", "a.png", flat(100))
    put("true", "b.png", flat(100, 64))
    put("clean", "a.png", flat(100, 16))
    put("clean", "b.png", flat(100, 8))
    put("clean", "c.png", flat(100, 8))
    done = scene.figures("-hr_dir", "true", "-clean", "clean")
    assert done.returncode == 1 and done.PNG["pictures"] == 3
    assert done.PNG["hr_psnr"] == pytest.approx(20 * math.log10(255 / 10))
    assert done.PNG["clean_l2"] == pytest.approx((10 / 255) ** 2)
    assert sorted(done.stderr.splitlines()) == [
        "a.png: -clean clean: it is 16×16, and must be 8×8: align_face.py -output_size",
        "b.png: -hr_dir true: it is 64×64, and must be 32×32: align_face.py -output_size",
        "c.png: -hr_dir true: no picture has its name: put it there under that name",
    ]
    for flag in ("-hr_dir", "-clean"):
        assert scene(flag, "nowhere").returncode == 2


def test_two_true_hr_for_one_input_are_told_apart_by_the_name_or_named(scene):
    scene.add("a", flat(110), flat(100, 8))
    for name, value in (("a.jpg", 0), ("a.bmp", 100)):
        put("true", name, flat(value))
    done = scene.figures("-hr_dir", "true")
    assert done.returncode == 1 and "keep one of a.bmp, a.jpg" in done.stderr
    put("true", "a.png", flat(110))  # the very name of the input
    done = scene.figures("-hr_dir", "true")
    assert done.returncode == 0 and done.PNG["hr_psnr"] == "inf"


@pytest.mark.parametrize("side", [30, 8])
def test_a_result_that_is_no_multiple_of_its_lr_is_named(scene, side):
    scene.add("a", flat(110, side), flat(100, 8))
    scene.add("b", flat(110), flat(100, 8))
    done = scene.figures()
    sentence = f"a.png: not held against its LR, it is {side}×{side}, no multiple of the LR's 8×8"
    assert done.returncode == 1 and done.PNG["within_eps"]["of"] == 1
    assert done.stderr.splitlines() == [sentence]


def test_rows_have_the_figures_of_every_result_and_of_both_enlargements(scene):
    scene.add("a_1", flat(110), flat(100, 8), "a.png")
    scene.add("a_2", flat(120), flat(100, 8), "a.png")
    problems = Problems()
    evaluation = Evaluation(problems, PictureFolder(Path("input"), "-input_dir"))
    for results in read_results(Path("runs"), problems):
        evaluation.measure(results)
    assert [row["method"] for row in evaluation.rows] == ["PULSE", "PULSE", "nearest", "bicubic"]
    assert all(row.keys() <= set(COLUMNS) for row in evaluation.rows)
    assert [row["l2"] for row in evaluation.rows[:2]] == pytest.approx(
        [(10 / 255) ** 2, (20 / 255) ** 2]
    )
    (diversity,) = evaluation.diversity
    assert diversity["rmse"] == pytest.approx(10 / 255) and problems.lines() == []
