"""What a record holds, results.csv, and what a picture says of itself."""

import csv
import gc
import io
import json
import re
from xml.etree import ElementTree

import pytest
import torch
from forked_runs import STEPS, face, faces, record_of

from imaging.pictures import read_picture
from imaging.provenance import picture_text
from PULSE import Search
from runner.jobs import pixels_sha256
from runner.records import COLUMNS
from search_settings import Settings


def test_a_finished_search_leaves_nothing_for_the_collector(here, tmp_path):
    """Else the tensors of many searches are in memory at once, until it runs."""

    def searches() -> int:
        return sum(type(each) is Search for each in gc.get_objects())

    faces(tmp_path / "input", 4)
    here()  # the very first search of a process imports much
    gc.collect()
    before = searches()
    gc.disable()
    try:
        assert here("-overwrite").out.startswith("4 faces made")
        assert searches() <= before
    finally:
        gc.enable()


def test_the_record_tells_everything_that_made_the_picture(here, small, tmp_path):
    face(tmp_path / "input" / "a.png")
    assert here("-eps", 1).status == 0
    record = record_of(tmp_path / "runs", "a")
    settings = vars(Settings(steps=STEPS, eps=1).resolved(noise_layers=4))
    assert settings.items() <= record["settings"].items()
    sha256 = pixels_sha256(read_picture(tmp_path / "input" / "a.png"))
    assert record["input"] == {"file": "a.png", "pixels_sha256": sha256, "side": 4}
    assert record["generator"]["name"] == str(small)
    assert re.fullmatch("[0-9a-f]{64}", record["generator"]["sha256"])
    assert record["seed"] == record["settings"]["seed"] == 0
    assert record["within_eps"] is True and record["threads"] == 1 and record["device"] == "cpu"
    assert record["seconds"] > 0
    assert {"pulse", "python", "torch", "numpy"} <= record["versions"].keys()
    assert record["versions"]["torch"] == torch.__version__
    curve = record["curve"]
    assert {len(values) for values in curve.values()} == {STEPS}
    best = record["best_step"]
    for name, figure in (("L2", "l2"), ("GEOCROSS", "geocross"), ("total", "total")):
        assert curve[name][best] == pytest.approx(record[figure], rel=1e-5)
    assert record["total"] == pytest.approx(min(curve["total"]), rel=1e-5)


def test_records_of_two_runs_differ_in_the_seconds_only(study, here, tmp_path):
    assert here("-input_dir", study.root / "input").status == 0
    for name in study.expected:
        first, second = (
            json.loads((folder / name).with_suffix(".json").read_text())
            for folder in (study.root / "expected", tmp_path / "runs")
        )
        assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_results_csv_lists_every_record_and_can_be_rebuilt(study, here, tmp_path):
    args = ("-input_dir", study.root / "input", "-output_dir", "runs")
    assert here(*args).status == 0
    path = tmp_path / "runs" / "results.csv"
    text = path.read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows] == [f"{i:02}" for i in range(12)]
    settings = {*vars(Settings()), "seed", "retries", "precision", "generator_sha256"}
    assert {*COLUMNS, *(f"settings.{name}" for name in settings)} == rows[0].keys()
    for row in rows:
        record = record_of(tmp_path / "runs", row["name"])
        assert float(row["l2"]) == record["l2"] and row["input"] == record["input"]["file"]
        assert row["within_eps"] == str(record["within_eps"])
    path.unlink()
    done = here("-summary")
    assert done.status == 0 and path.read_text(encoding="utf-8-sig") == text
    within = sum(row["within_eps"] == "True" for row in rows)
    assert f"12 results, {within} within eps: runs/results.csv" in done.out
    assert here("-summary", "-output_dir", "nowhere").status == 2


def test_names_that_a_table_program_would_calculate_are_text(here, tmp_path):
    face(tmp_path / "input" / "=1+1.png")
    assert here("-eps", 1).status == 0
    text = (tmp_path / "runs" / "results.csv").read_text(encoding="utf-8-sig")
    row = next(csv.DictReader(io.StringIO(text)))
    assert row["name"] == "'=1+1" and row["input"] == "'=1+1.png"


def test_results_csv_says_to_excel_that_it_is_utf_8(here, tmp_path):
    face(tmp_path / "input" / "Zoë Müller.png")
    assert here("-eps", 1).status == 0
    path = tmp_path / "runs" / "results.csv"
    assert path.read_bytes().startswith("\ufeffname,input,".encode())
    assert "Zoë Müller.png" in path.read_text(encoding="utf-8-sig")
    path.write_bytes(path.read_bytes().removeprefix("\ufeff".encode()))  # of an earlier version
    done = here("-eps", 1)
    assert done.status == 0 and "1 result kept from before" in done.out
    assert path.read_bytes().count("\ufeff".encode()) == 1


def test_the_picture_itself_says_that_it_is_imaginary(here, tmp_path):
    face(tmp_path / "input" / "a.png")
    assert here("-eps", 1, "-seed", 5).status == 0
    text = picture_text(tmp_path / "runs" / "a.png")
    assert "imaginary" in text["Description"] and "does not exist" in text["Description"]
    assert text["pulse:seed"] == "5"
    record = record_of(tmp_path / "runs", "a")
    assert text["pulse:generator_sha256"] == record["generator"]["sha256"]
    packet = re.sub(r"<\?xpacket.*?\?>", "", text["XML:com.adobe.xmp"])
    namespace = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
    kinds = [
        element.get(f"{namespace}DigitalSourceType")
        for element in ElementTree.fromstring(packet.strip()).iter()
    ]
    assert (
        "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia" in kinds
    )  # the whole address is the term of the IPTC's vocabulary
