"""Means, shares and their spread, over all results and by groups, are those of hand and scipy."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from result_folders import PNG, RECORDS, flat, noise
from scipy import stats

from evaluation import tables


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
    with open("out.csv", newline="", encoding="utf-8-sig") as file:
        assert {line["psnr"] for line in csv.DictReader(file)} == {"inf"}
    assert f"| {PNG} | 2 | 0 | inf |" in Path("out.md").read_text()


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


def test_the_steps_by_which_half_and_nine_tenths_were_within_eps_count_misses_as_never(scene):
    for i, first in enumerate((3, 8, 5, 12, 1, 4, 40, 6, 7, None)):
        l2 = [None, *[0.01] * 49]  # of the first iterate, which was not finite, and of 49 more
        if first is not None:
            l2[first - 1 :] = [0.0015, *[0.004] * (50 - first)]
        scene.add(
            f"{i}", flat(100 + i), flat(100, 8), curve={"L2": l2}, within_eps=first is not None
        )
    done = scene.figures("-csv", "out.csv")
    record = done.rows[RECORDS]
    assert (record["half_by"], record["most_by"]) == (6, 40)
    assert "half_by" not in done.PNG and "90 % within eps by step" in done.stdout
    with open("out.csv", newline="", encoding="utf-8-sig") as file:
        rows = [line["first_step"] for line in csv.DictReader(file) if line["method"] == "PULSE"]
    assert rows == ["3", "8", "5", "12", "1", "4", "40", "6", "7", ""]
    scene.add("miss", flat(90), flat(100, 8), within_eps=False)
    scene.add("old", flat(91), flat(100, 8), curve=None)  # a record that has none
    record = scene.figures().rows[RECORDS]
    assert (record["half_by"], record["most_by"]) == (7, None)


def test_the_mean_l2_has_its_standard_error_and_the_worst_beside_it_and_geocross_its_mean(scene):
    l2 = [0.001, 0.003, 0.0015, 0.0045]
    for i, value in enumerate(l2):
        scene.add(f"{i}", flat(100 + 10 * i), flat(100, 8), l2=value, geocross=4 * i)
    done = scene.figures("-csv", "out.csv")
    record = done.rows[RECORDS]
    assert record["l2_error"] == pytest.approx(np.std(l2, ddof=1) / 2, rel=1e-12)
    assert (record["worst_l2"], record["geocross"]) == (0.0045, 6)
    of_files = [(10 * i / 255) ** 2 for i in range(4)]
    assert done.PNG["l2_error"] == pytest.approx(np.std(of_files, ddof=1) / 2, rel=1e-9)
    assert done.PNG["worst_l2"] == pytest.approx(of_files[3], rel=1e-9)
    assert f"{stats.sem(l2):.6f}" in done.stdout and "GEOCROSS" in done.stdout
    with open("out.csv", newline="", encoding="utf-8-sig") as file:
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
    reference = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert light["l2_interval"] == pytest.approx([max(reference[0], 0), reference[1]])
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


def test_every_format_is_written_and_tells_the_same(scene):
    for i in (1, 2):
        scene.add(f"a_{i}", noise(32, i), noise(8), "a|b.png", seed=i, within_eps=i == 1)
    Path("g.csv").write_text('file,group\n"a|b.png","=x|y"\n')
    names = ["-json", "o.json", "-csv", "o.csv", "-markdown", "o.md", "-html", "o.html"]
    done = scene(*names, "-groups", "g.csv")
    assert done.returncode == 0, done.stderr
    document = json.loads(Path("o.json").read_text(), parse_constant=pytest.fail)
    with open("o.csv", newline="", encoding="utf-8-sig") as file:
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
