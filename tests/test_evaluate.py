"""evaluate.py gives the figures that hand, torchmetrics and scipy give, and loses nothing of a
folder in which something is wrong.
"""

import csv
import hashlib
import itertools
import json
import math
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, command
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from stress_evaluate import put_result

import evaluate
import run
from bicubic import BicubicDownSample
from cli.command import run_command
from evaluation import intervals, metrics, tables
from imaging.pictures import read_picture, to_picture, to_tensor


def flat(value, side=32):
    """A picture of one grey, or of one colour."""
    return Image.new("RGB", (side, side), value if isinstance(value, tuple) else (value,) * 3)


def noise(side=32, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def scene(tmp_path, monkeypatch, capsys):
    """`scene.add("a", HR, LR)` puts results of run.py into a folder, `scene("-json", "o.json")`
    evaluates them, in this process, which saves seconds a call.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    threads = torch.get_num_threads()

    def call(*args, script="evaluate.py", main=evaluate.main):
        args = ["runs", *args] if script == "evaluate.py" else args
        monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
        with pytest.raises(SystemExit) as left:
            run_command(main)
        told = capsys.readouterr()
        return SimpleNamespace(returncode=left.value.code, stdout=told.out, stderr=told.err)

    def add(name, HR, LR, file=None, **changes):
        file = file or f"{name}.png"
        (tmp_path / "input").mkdir(exist_ok=True)
        LR.save(tmp_path / "input" / file)
        return put_result(tmp_path / "runs", name, HR, LR, file, **changes)

    def figures(*args):
        done = call(*args, "-json", "out.json", "-overwrite")
        document = json.loads(Path("out.json").read_text(encoding="utf-8"))
        rows = {row["row"]: row for row in document["table"]}
        return SimpleNamespace(**vars(done), document=document, rows=rows, PNG=rows[PNG])

    call.folder, call.add, call.figures, call.run = tmp_path, add, figures, run_demo(call)
    yield call
    torch.set_num_threads(threads)
    for number, handler in handlers:
        signal.signal(number, handler)


def run_demo(call):
    return lambda *args: call(*args, script="run.py", main=run.main)


RECORDS, PNG = "PULSE, records", "PULSE, PNG files"


def put(folder, name, picture):
    Path(folder).mkdir(exist_ok=True)
    picture.save(Path(folder) / name)


def digests(folder):
    """Every file below a folder, with the SHA-256 of its content."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


# ---------------------------------------------------------------- figures by hand


def test_a_perfect_result_has_l2_zero_and_an_infinite_psnr_shown_as_such(scene):
    scene.add("grey", flat(100), flat(100, 8))
    scene.add("colour", flat((13, 200, 77)), flat((13, 200, 77), 8))
    done = scene.figures("-csv", "out.csv", "-markdown", "out.md")
    assert done.returncode == 0, done.stderr
    assert done.PNG["l2"] == 0
    assert done.PNG["psnr"] == "inf"  # JSON has no such number
    assert done.rows["nearest"]["l2"] == done.rows["bicubic"]["l2"] == 0
    line = next(line for line in done.stdout.splitlines() if line.startswith(PNG))
    assert line.split()[3:6] == ["2", "0", "inf"]
    with open("out.csv", newline="") as file:
        assert {line["psnr"] for line in csv.DictReader(file)} == {"inf"}
    assert f"| {PNG} | 2 | 0 | inf |" in Path("out.md").read_text()


@pytest.mark.parametrize(("value", "offset"), [(100, 10), (200, -51)])
def test_a_constant_offset_has_the_l2_and_psnr_computed_by_hand(scene, value, offset):
    scene.add("a", flat(value + offset), flat(value, 8))
    done = scene.figures()
    assert done.PNG["l2"] == pytest.approx((offset / 255) ** 2, rel=1e-12)
    assert done.PNG["psnr"] == pytest.approx(20 * math.log10(255 / abs(offset)), rel=1e-12)
    assert done.PNG["within_eps"]["within"] == (1 if (offset / 255) ** 2 <= 0.002 else 0)
    assert done.rows[RECORDS]["l2"] == 0.0015  # the record's own, not measured anew


def test_the_l2_of_pictures_is_that_of_the_downscaling_operator_not_of_block_means(scene):
    HR = noise(32, 1)
    small = BicubicDownSample(4)(to_tensor(HR)[None])[0]
    LR = to_picture(small)
    scene.add("a", HR, LR)
    expected = (small - to_tensor(LR)).square().mean().item()
    assert scene.figures().PNG["l2"] == pytest.approx(expected, rel=1e-4)
    blocks = to_tensor(HR).reshape(3, 8, 4, 8, 4).mean((2, 4))
    assert (blocks - to_tensor(LR)).square().mean().item() > 100 * expected


def test_means_are_taken_over_pictures_and_the_psnr_is_that_of_the_mean(scene):
    scene.add("a", flat(110), flat(100, 8), l2=0.001, best_step=10, seconds=1)
    scene.add("b", flat(130), flat(100, 8), l2=0.003, best_step=20, seconds=2, within_eps=False)
    done = scene.figures()
    mean = (10**2 + 30**2) / 2 / 255**2
    assert done.PNG["l2"] == pytest.approx(mean)
    assert done.PNG["psnr"] == pytest.approx(-10 * math.log10(mean))
    record = done.rows[RECORDS]
    assert (record["l2"], record["best_step"], record["seconds"]) == (0.002, 15, 1.5)
    assert record["within_eps"]["within"] == 1 and record["within_eps"]["of"] == 2


def test_the_mean_l2_has_its_standard_error_and_the_worst_beside_it_and_geocross_its_mean(scene):
    l2 = [0.001, 0.003, 0.0015, 0.0045]
    for i, value in enumerate(l2):
        scene.add(f"{i}", flat(100 + 10 * i), flat(100, 8), l2=value, geocross=4 * i)
    done = scene.figures("-csv", "out.csv")
    record = done.rows[RECORDS]
    assert record["l2_error"] == pytest.approx(stats.sem(l2), rel=1e-12)
    assert (record["worst_l2"], record["geocross"]) == (0.0045, 6)
    of_files = [(10 * i / 255) ** 2 for i in range(4)]
    assert done.PNG["l2_error"] == pytest.approx(stats.sem(of_files), rel=1e-9)
    assert done.PNG["worst_l2"] == pytest.approx(of_files[3], rel=1e-9)
    assert f"{stats.sem(l2):.6f}" in done.stdout and "GEOCROSS" in done.stdout
    with open("out.csv", newline="") as file:
        rows = [line for line in csv.DictReader(file) if line["method"] == "PULSE"]
    assert [float(line["geocross"]) for line in rows] == [0, 4, 8, 12]


def test_one_result_has_no_standard_error_and_a_record_without_geocross_is_no_problem(scene):
    scene.add("a", flat(110), flat(100, 8))
    done = scene.figures()
    assert done.returncode == 0 and done.stderr.count("\n") <= 1
    assert done.rows[RECORDS]["l2_error"] is None and done.rows[RECORDS]["geocross"] is None
    assert "SE of L2" not in done.stdout.split("\n\n")[1]


def test_shares_are_told_from_records_and_from_files_and_a_note_says_where_they_differ(scene):
    scene.add("a", flat(120), flat(100, 8), within_eps=True)  # L2 0.006: the file says no
    scene.add("b", flat(100), flat(100, 8), within_eps=True)
    done = scene.figures()
    assert done.rows[RECORDS]["within_eps"]["within"] == 2
    assert done.PNG["within_eps"]["within"] == 1
    assert "took 1 result to the other side of eps" in done.stdout


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


def test_true_hr_gives_the_figures_of_torchmetrics_and_is_said_to_be_no_goal(scene):
    from torchmetrics.functional.image import structural_similarity_index_measure
    from torchmetrics.image import PeakSignalNoiseRatio

    pairs = [(noise(32, 1), noise(32, 2)), (flat(90), flat(100)), (noise(32, 3), flat(7))]
    theirs, likeness = PeakSignalNoiseRatio(data_range=1.0), []
    for i, (HR, true) in enumerate(pairs):
        scene.add(f"{i}", HR, flat(100, 8))
        put("true", f"{i}.bmp", true)  # the stem tells whose it is
        theirs.update(to_tensor(HR), to_tensor(true))
        likeness.append(
            structural_similarity_index_measure(
                to_tensor(HR)[None], to_tensor(true)[None], data_range=1.0
            ).item()
        )
    done = scene.figures("-hr_dir", "true")
    assert done.PNG["hr_psnr"] == pytest.approx(theirs.compute().item(), rel=1e-5)
    assert done.PNG["ssim"] == pytest.approx(np.mean(likeness), rel=1e-5)
    assert done.rows["true HR"]["pictures"] == 3 and done.rows["nearest"]["hr_psnr"] > 0
    assert "hr_psnr" not in done.rows["true HR"] or done.rows["true HR"]["hr_psnr"] is None
    told = " ".join(done.stdout.split())
    assert "no goal of PULSE" in told and "SSIM: torchmetrics" in told


def test_the_psnr_of_a_consistency_is_that_of_torchmetrics():
    from torchmetrics.functional.image import peak_signal_noise_ratio

    for seed in range(3):
        HR, LR = to_tensor(noise(64, seed)), to_tensor(noise(16, seed + 9))
        theirs = peak_signal_noise_ratio(BicubicDownSample(4)(HR[None]), LR[None], data_range=1.0)
        assert metrics.psnr(metrics.consistency(HR, LR)) == pytest.approx(theirs.item(), rel=1e-5)


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
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as theirs

    a, b = (to_tensor(noise(32, seed))[None] for seed in (1, 2))
    distance = theirs(a, b, net_type="alex", normalize=True).item()
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
    told = " ".join(done.stdout.split())
    place = scene.folder / "hub" / "hub" / "checkpoints" / "alexnet-"
    assert told.count("LPIPS is left out") == 1
    assert str(place) in told.replace("- ", "-") and "fetch it from https://" in told
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
    told = " ".join(done.stdout.split())
    assert "NIQE is left out: the package pyiqa is not installed (pip install pyiqa)." in told


@pytest.mark.parametrize(
    ("code", "parameters", "side", "sentence"),
    [
        (PYIQA.format(scale=1), False, 192, "niqe_modelparameters.mat is missing, and nothing is"),
        ("import no_such_module_of_pyiqa", True, 192, "its package or its weights failed (No mod"),
        ("raise RuntimeError('half\\ninstalled')", True, 192, "failed (half installed): install"),
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
    told = " ".join(done.stdout.split())
    assert told.count(sentence) == 1 and told.count("NIQE is left out") <= 1
    assert done.returncode == 0 and done.PNG["l2"] == 0 and done.PNG["niqe"] is None


# ---------------------------------------------------------------- how sure a figure is


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_intervals_are_those_of_scipy(counts):
    k, n = counts
    theirs = stats.binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    low, high = intervals.wilson(k, n)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert (low == 0) == (k == 0) and (high == 1) == (k == n)


def test_the_interval_in_the_table_is_scipys(scene):
    for i in range(8):
        scene.add(f"{i}", flat(100), flat(100, 8), within_eps=i < 5)
    done = scene.figures()
    theirs = stats.binomtest(5, 8).proportion_ci(method="wilson")
    share = done.rows[RECORDS]["within_eps"]
    assert (share["low"], share["high"]) == pytest.approx((theirs.low, theirs.high))
    assert f"62.5 % ({100 * theirs.low:.1f} to {100 * theirs.high:.1f})" in done.stdout


def test_intervals_of_means_are_students():
    values = [random.Random(0).expovariate(500) for _ in range(9)]
    theirs = stats.t.interval(0.95, 8, loc=np.mean(values), scale=stats.sem(values))
    assert intervals.mean_interval(values) == pytest.approx(theirs)
    assert intervals.mean_interval([1.0]) is None


def test_shares_of_many_are_compared_by_chi_square_and_of_few_by_fisher():
    many = intervals.difference_of_shares([(30, 50), (45, 60), (20, 40)])
    theirs = stats.chi2_contingency([[30, 20], [45, 15], [20, 20]], correction=False)
    assert many.test.startswith("chi-square") and many.p == pytest.approx(theirs.pvalue)
    two = intervals.difference_of_shares([(30, 50), (45, 60)])
    theirs = stats.chi2_contingency([[30, 20], [45, 15]], correction=False)
    assert two.test.startswith("chi-square") and two.p == pytest.approx(theirs.pvalue)
    few = intervals.difference_of_shares([(8, 8), (1, 6)])
    assert few.test.startswith("Fisher")
    assert few.p == pytest.approx(stats.fisher_exact([[8, 0], [1, 5]])[1])
    assert "The groups differ in shares within eps" in few.words and "p = 0.00" in few.words


def test_three_small_groups_are_compared_by_permutation_as_if_all_were_enumerated():
    counts = [(4, 4), (1, 3), (0, 3)]
    told = intervals.difference_of_shares(counts)
    sizes, successes = [n for _, n in counts], 5

    def chi_square(table):
        expected = [n * successes / sum(sizes) for n in sizes]
        return sum(
            (k - e) ** 2 / e + (k - e) ** 2 / (n - e)
            for k, n, e in zip(table, sizes, expected, strict=True)
        )

    as_far = total = 0
    for table in itertools.product(*(range(n + 1) for n in sizes)):
        if sum(table) == successes:
            ways = math.prod(math.comb(n, k) for n, k in zip(sizes, table, strict=True))
            total += ways
            as_far += ways * (chi_square(table) >= chi_square([4, 1, 0]) - 1e-9)
    assert told.test.startswith("permutation")
    assert told.p == pytest.approx(as_far / total, abs=0.005)  # three standard errors
    assert intervals.difference_of_shares(counts) == told  # seeded


def test_l2_of_groups_is_compared_by_kruskal_wallis():
    groups = [[1.0, 2, 3, 4, 5, 6], [4.5, 5.5, 6.5, 7.5, 8.5], [0.5, 0.6, 0.7, 0.8, 0.9]]
    told = intervals.difference_of_means(groups, "L2")
    assert told.p == pytest.approx(stats.kruskal(*groups).pvalue)
    assert told.words.startswith("The groups differ in L2 (Kruskal-Wallis test; p")
    alike = intervals.difference_of_means([[1.0, 3, 5], [2.0, 4, 6]], "L2")
    assert alike.words.startswith("No difference between the groups was shown in L2 (Krus")
    assert "rough: a group has fewer than 5 inputs" in alike.words


def test_what_cannot_be_tested_is_said_to_be_so():
    assert intervals.difference_of_shares([(1, 2)]).p is None
    assert "one group only" in intervals.difference_of_means([[1.0, 2.0]], "L2").words
    for counts in ([(3, 3), (2, 2)], [(0, 3), (0, 2)]):
        assert "one side of eps" in intervals.difference_of_shares(counts).words
    assert "all inputs have the same" in intervals.difference_of_means([[1.0], [1.0]], "L2").words


# ---------------------------------------------------------------- groups


def test_groups_have_shares_means_intervals_and_tests_in_words(scene):
    for i in range(8):
        within = i < 4
        l2 = 0.001 + 0.0001 * i + (0 if within else 0.005)
        scene.add(f"p{i}", flat(100), flat(100, 8), l2=l2, within_eps=within)
    lines = [f"faces/p{i}.png,dark" if i % 2 else f"p{i},light" for i in range(8)]  # name or stem
    Path("g.csv").write_bytes("\r\n".join(["\ufeffFile,Group", *lines]).encode())  # as Excel does
    done = scene.figures("-groups", "g.csv")
    assert done.returncode == 0, done.stderr
    dark, light = done.document["groups"]["table"]
    assert (dark["group"], dark["inputs"], dark["within_eps"]["within"]) == ("dark", 4, 2)
    values = [0.001 + 0.0001 * i + (0 if i < 4 else 0.005) for i in (0, 2, 4, 6)]
    assert light["l2"] == pytest.approx(np.mean(values))
    theirs = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert light["l2_interval"] == pytest.approx([max(theirs[0], 0), theirs[1]])
    assert "No difference between the groups was shown in shares within eps" in done.stdout
    assert "Fisher's exact test; p = 1.000" in " ".join(done.stdout.split())
    assert {row["group"] for row in done.document["pictures"]} == {"dark", "light"}


def test_an_input_with_several_results_counts_once_in_its_group(scene):
    for i, (l2, within) in enumerate([(0.001, True), (0.005, False), (0.006, False)]):
        scene.add(f"a_{i}", flat(99), flat(100, 8), "a.png", l2=l2, within_eps=within)
    scene.add("b_0", flat(99), flat(100, 8), "b.png", l2=0.008, within_eps=False)
    Path("g.csv").write_text("file,group\na,x\nb,x\n")
    (group,) = scene.figures("-groups", "g.csv").document["groups"]["table"]
    assert (group["inputs"], group["results"]) == (2, 4)
    assert group["within_eps"]["within"] == 1 and group["within_eps"]["of"] == 2
    assert group["l2"] == pytest.approx((0.004 + 0.008) / 2)


def test_a_groups_file_that_misses_pictures_or_has_unknown_ones_is_one_sentence_each(scene):
    for name in "abcde":
        scene.add(name, flat(99), flat(100, 8))
    Path("g.csv").write_text("file,group\na,x\nb,y\nb.png,z\nc,\nnobody,x\nnot.png,y\n")
    done = scene.figures("-groups", "g.csv")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "b.png: in several groups of -groups g.csv: the first one counts",
        "c: has no file or no group in -groups g.csv: give it both",
        "nobody, not.png: in -groups g.csv, but of none of the results: passed over",
        "c.png, d.png, e.png: not in -groups g.csv: left out of the groups, add a line of it",
    ]
    assert [group["inputs"] for group in done.document["groups"]["table"]] == [1, 1]
    assert done.PNG["pictures"] == 5 and done.document["problems"] == done.stderr.splitlines()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name;group\na;x\n", "lacks the columns: its first line must be file,group"),
        (b"", "lacks the columns"),
        (b"file,group\n\xff\xfe\x00,x\n", "cannot be read (it is no CSV file in UTF-8)"),
        (None, "cannot be read (No such file"),
    ],
)
def test_a_groups_file_that_is_none_ends_it_before_anything_is_measured(scene, content, sentence):
    scene.add("a", flat(99), flat(100, 8))
    if content is not None:
        Path("g.csv").write_bytes(content)
    done = scene("-groups", "g.csv")
    assert done.returncode == 2 and sentence in done.stderr and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


# ---------------------------------------------------------------- what is wrong in a folder


def test_nothing_to_evaluate_is_status_two_and_one_sentence(scene):
    assert "runs is no folder" in scene().stderr
    Path("runs").mkdir()
    done = scene()
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "evaluate.py: error: runs holds no result of run.py\n"


def test_records_without_pictures_and_pictures_without_records_are_named_once(scene):
    scene.add("good", flat(99), flat(100, 8))
    scene.add("gone", flat(99), flat(100, 8)).unlink()
    scene.add("far", flat(99), flat(100, 8), within_eps=False).with_suffix(".json").unlink()
    scene.add("bare", flat(99), flat(100, 8)).with_suffix(".json").unlink()
    scene.add("cut", flat(99), flat(100, 8)).with_suffix(".json").write_text('{"name": "cu')
    scene.add("odd", flat(99), flat(100, 8), l2="much")
    scene.add("huge", flat(99), flat(100, 8), l2=10**400)
    scene.add("minus", flat(99), flat(100, 8), l2=-0.001)
    scene.add("twice", flat(99), flat(100, 8), within_eps=False)
    scene.add("twice", flat(99), flat(100, 8), within_eps=True)
    Path("runs/mine.json").write_text('{"figures": 1}')  # an -json of before: nobody's record
    Path("runs/results.csv").write_text("name\n")
    done = scene.figures()
    assert done.returncode == 1 and done.rows[RECORDS]["pictures"] == 2
    told = done.stderr.splitlines()
    assert len(told) == 4
    assert told[0].startswith("bare.png, outside_eps/far.png: left out, no record (.json)")
    assert told[1].startswith(
        "cut.png, huge.png, minus.png, odd.png: left out, its record is damaged"
    )
    assert told[2].startswith("gone.json: left out, a record without its picture")
    assert told[3].startswith("outside_eps/twice.png: left out, a result of that name")


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
    told = f"a.png: not held against its LR, it is {side}×{side}, no multiple of the LR's 8×8"
    assert done.returncode == 1 and done.PNG["within_eps"]["of"] == 1
    assert done.stderr.splitlines() == [told]


# ---------------------------------------------------------------- what is written


def test_every_format_is_written_and_tells_the_same(scene):
    for i in (1, 2):
        scene.add(f"a_{i}", noise(32, i), noise(8), "a|b.png", seed=i, within_eps=i == 1)
    Path("g.csv").write_text('file,group\n"a|b.png","=x|y"\n')
    names = ["-json", "o.json", "-csv", "o.csv", "-markdown", "o.md", "-html", "o.html"]
    done = scene(*names, "-groups", "g.csv")
    assert done.returncode == 0, done.stderr
    document = json.loads(Path("o.json").read_text(), parse_constant=pytest.fail)
    with open("o.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == ["PULSE", "PULSE", "nearest", "bicubic"]
    assert [float(line["l2"]) for line in lines] == [row["l2"] for row in document["pictures"]]
    assert lines[0]["group"] == "'=x|y"  # no formula to a table program
    assert lines[1]["record_within_eps"] == "False"
    markdown = Path("o.md").read_text()
    header = next(line for line in markdown.splitlines() if line.startswith("|  |"))
    shown = tables.cells(document["table"])
    assert header == f"| {' | '.join(shown[0])} |"
    assert all(cell in done.stdout for row in shown for cell in row)
    assert "=x\\|y" in markdown
    page = Path("o.html").read_text()
    assert "a_1" in page and "a_2" in page and "=x|y" in page
    assert "2 results of 1 input" in page


def test_files_are_not_overwritten_unasked_and_results_never(scene):
    scene.add("a", flat(110), flat(100, 8))
    Path("o.json").write_text("mine")
    before = digests(".")
    for args in (
        ["-json", "o.json"],
        ["-json", "runs/a.json", "-overwrite"],
        ["-csv", "runs/a.png", "-overwrite"],
        ["-csv", "g.csv", "-groups", "g.csv", "-overwrite"],
        ["-html", "runs"],
        ["-json", "same", "-markdown", "same"],
        ["-csv", "o.json/o.csv"],
        ["-threads", "0"],
    ):
        Path("g.csv").write_text("file,group\na,x\n")
        done = scene(*args)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, args
        Path("g.csv").unlink()
        assert digests(".") == before
    assert scene("-json", "o.json", "-overwrite", "-html", "o.html").returncode == 0
    changed = {path for path, digest in digests(".").items() if before.get(path) != digest}
    assert changed == {Path("o.json"), Path("o.html")}


def test_evaluating_twice_gives_the_same_files(scene):
    for i in range(4):
        scene.add(f"{i}", noise(32, i), noise(8, i), within_eps=i % 2 == 0)
    Path("g.csv").write_text("file,group\n0,x\n1,x\n2,y\n3,z\n")
    for name in ("one", "two"):
        assert scene("-groups", "g.csv", "-json", f"{name}.json").returncode == 0
    assert Path("one.json").read_bytes() == Path("two.json").read_bytes()


# ---------------------------------------------------------------- the command itself


def test_what_run_py_writes_is_evaluated_and_agrees_with_its_records(scene, tiny):
    for i in range(3):
        put("input", f"{i}.png", noise(4, i))
    args = ["-generator", tiny, "-device", "cpu", "-seed", 0, "-steps", 4, "-duplicates", 2]
    assert scene.run(*args, "-eps", 0.07).returncode == 0
    done = scene.figures()
    assert done.returncode == 0, done.stderr
    assert done.rows[RECORDS]["pictures"] == 6 and "steps 4" in done.stdout
    by_name = {row["name"]: row for row in done.document["pictures"] if "name" in row}
    for path in Path("runs").rglob("*_*.png"):
        record, row = json.loads(path.with_suffix(".json").read_text()), by_name[path.stem]
        assert row["record_l2"] == record["l2"]
        HR, LR = (to_tensor(read_picture(p)) for p in (path, Path("input", f"{path.stem[0]}.png")))
        expected = (BicubicDownSample(4)(HR[None])[0] - LR).square().mean().item()
        assert row["l2"] == pytest.approx(expected, rel=1e-4)
    assert done.PNG["diversity_rmse"] > 0


def test_as_a_process_it_ends_with_the_status_of_the_folder(tmp_path):
    put_result(tmp_path / "runs", "a", flat(110), flat(100, 8), "a.png")
    put(tmp_path / "lr", "a.png", flat(100, 8))
    args = ["runs", "--input_dir=lr", "-csv", "new/o.csv"]
    done = command("evaluate.py", *args, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("runs: 1 result of 1 input, eps 0.002, steps 100\n")
    assert (tmp_path / "new" / "o.csv").exists()
    (tmp_path / "runs" / "a.png").unlink()
    done = command("evaluate.py", "runs", cwd=tmp_path)
    assert done.returncode == 2
    assert "a.json: left out, a record without its picture" in done.stderr


def test_asking_for_help_imports_nothing_that_takes_long():
    code = "import sys, evaluate; evaluate.parser(); print({'torch', 'PIL', 'numpy', 'scipy'} & "
    done = subprocess.run(
        [sys.executable, "-c", code + "set(sys.modules))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"
