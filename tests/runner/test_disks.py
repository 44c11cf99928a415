"""Full disks, files in the way and folders that vanish: one sentence, the finished is kept."""

import errno
import os

from forked_runs import arguments, face, faces, leftovers, pictures, whole_results


def test_a_full_disk_is_one_sentence_and_the_finished_is_kept(start, small, tmp_path):
    faces(tmp_path / "input", 3)
    face(tmp_path / "input" / f"1{'x' * 200}.png")  # in its record twice, so that it is larger
    assert start(arguments(small), tmp_path).wait() == 0
    sizes = sorted(path.stat().st_size for path in (tmp_path / "runs").rglob("*.json"))
    for path in sorted((tmp_path / "runs").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    full = start(arguments(small), tmp_path, largest_file=(sizes[-1] + sizes[-2]) // 2)
    assert full.wait() == 1
    told = [line for line in full.output.splitlines() if line.startswith("run.py: error: ")]
    assert len(told) == 1 and os.strerror(errno.EFBIG) in told[0]
    assert "what is finished is kept" in told[0] and "Traceback" not in full.output
    assert sorted(whole_results(tmp_path / "runs")) == ["00.png", "01.png", "02.png"]
    assert not leftovers(tmp_path / "runs")
    assert (tmp_path / "runs" / "results.csv").read_text().count("\n") == 4
    again = start(arguments(small), tmp_path)
    assert again.wait() == 0 and "3 results kept" in again.output


def test_a_disk_that_holds_no_result_at_all(start, small, tmp_path):
    faces(tmp_path / "input", 3)
    full = start(arguments(small), tmp_path, largest_file=800)
    assert full.wait() == 1
    assert full.output.count("run.py: error: ") == 1 and "Traceback" not in full.output
    assert not pictures(tmp_path / "runs") and not leftovers(tmp_path / "runs")


def test_a_file_in_the_way_is_one_sentence(here, tmp_path):
    face(tmp_path / "input" / "a.png")
    face(tmp_path / "input" / "b.png", seed=1)
    assert here("-eps", 1, "-input_dir", "input/a.png").status == 0
    (tmp_path / "runs" / "outside_eps").write_text("in the way")
    done = here("-eps", 1, "-input_dir", "input/b.png", "-output_dir", "runs/outside_eps")
    assert done.status == 2 and "is no folder" in done.err and done.err.count("\n") == 1
    done = here("-eps", 1e-9, "-input_dir", "input/b.png", "-overwrite")
    assert done.status == 1 and done.err.count("run.py: error: ") == 1
    assert (tmp_path / "runs" / "outside_eps").read_text() == "in the way"
    assert (tmp_path / "runs" / "a.png").exists()


def test_a_folder_that_vanishes_midway_is_one_sentence_and_is_not_made_again(
    study, start, small, tmp_path
):
    args = arguments(small, "-input_dir", study.root / "input", "-eps", 1, steps=100)
    process = start(args, tmp_path)
    process.wait_until(lambda: len(pictures(tmp_path / "runs")) >= 2)
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert process.wait() == 1
    told = [line for line in process.output.splitlines() if line.startswith("run.py: error: ")]
    assert len(told) == 1 and "runs cannot be written (it has vanished)" in told[0]
    assert "Traceback" not in process.output
    assert not (tmp_path / "runs").exists()
    assert len(whole_results(tmp_path / "moved")) >= 2
