"""-save_latent and -render: latent files, and what is drawn from them again."""

import io
import json
import os
import shutil
import signal
import zipfile

import numpy as np
import pytest
import torch
from conftest import one_file
from forked_runs import PULSE_EPS as EPS
from forked_runs import PULSE_STEPS as STEPS
from forked_runs import files
from PIL import Image

from cli.errors import UserError
from generators.latents import Latent, encode_latent, read_latent, redraw
from imaging.pictures import to_tensor
from PULSE import PULSE
from runner.options import RunOptions
from runner.render import render_files


def test_a_latent_file_holds_what_it_says_and_no_pickle(pulse, tiny):
    pulse("-save_latent", "-num_trainable_noise_layers", 3)
    with np.load(pulse.runs / "a.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"format", "w", "noise_0", "noise_1", "noise_2", "record"}
        assert arrays["w"].shape == (6, 16) and arrays["w"].dtype == np.float32
        assert [arrays[f"noise_{i}"].shape for i in range(3)] == [(4, 4), (4, 4), (8, 8)]
        there = json.loads(arrays["record"].item())
    record = json.loads((pulse.runs / "a.json").read_text())
    assert there == {name: record[name] for name in there}
    assert {"seed", "settings", "generator", "device", "threads", "versions"} <= there.keys()
    latent, again = read_latent(pulse.runs / "a.npz")
    assert again == there and latent.w.shape == (6, 16) and set(latent.noise) == {0, 1, 2}


def test_a_latent_file_at_1024_has_less_than_a_megabyte(tmp_path, pulse):
    pulse("-save_latent")
    record = json.loads((pulse.runs / "a.json").read_text())
    noise_maps = {i: torch.randn(2 ** (i // 2 + 2), 2 ** (i // 2 + 2)) for i in range(5)}
    with open(tmp_path / "large.npz", "wb") as file:
        encode_latent(file, Latent(torch.randn(18, 512), noise_maps), record)
    assert (tmp_path / "large.npz").stat().st_size < 1_000_000


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("-tile_latent",),
        ("-noise_type", "zero"),
        ("-noise_type", "fixed", "-bad_noise_layers", "2.4"),
        ("-num_trainable_noise_layers", 6, "-duplicates", 2, "-batch_size", 3),
        ("-retries", 2, "-eps", 1e-9),
        ("-eps", 0.08, "-steps", 40, "-learning_rate", 0.2),
    ],
)
def test_drawn_again_a_picture_has_the_same_bytes(pulse, more):
    pulse("-save_latent", *more)
    before = files(pulse.runs, ".png")
    latents = [pulse.runs / name.replace(".png", ".npz") for name in before]
    done = pulse("-render", *latents, "-output_dir", "again")
    assert files(pulse.root / "again", ".png") == before
    assert f"{len(before)} pictures drawn again in again; no files refused" in done.out


def test_render_gives_the_tensor_that_the_search_gave(pulse, tiny):
    model = PULSE(tiny, "cpu")
    pulse("-save_latent")
    torch.set_num_threads(1)
    search = model(
        to_tensor(Image.open(pulse.root / "input" / "a.png")), seed=0, steps=STEPS, eps=EPS
    )
    ((HR, _),) = list(search)
    again = model.render(pulse.runs / "a.npz")
    assert again.shape == (1, 3, 16, 16) and torch.equal(again, HR)
    assert torch.equal(search.latents[0].w, read_latent(pulse.runs / "a.npz")[0].w)


def test_drawing_again_uses_the_number_of_threads_of_the_search_and_its_generator(
    pulse, monkeypatch
):
    pulse("-save_latent", "-threads", 3)
    torch.set_num_threads(2)
    render, used = PULSE.render, []
    monkeypatch.setattr(
        PULSE, "render", lambda *args: used.append(torch.get_num_threads()) or render(*args)
    )
    pulse("-render", "runs/a.npz", "-output_dir", "again", generator=None, threads=())
    assert used == [3] and torch.get_num_threads() == 2
    assert (pulse.root / "again" / "a.png").read_bytes() == (pulse.runs / "a.png").read_bytes()


def test_files_of_several_precisions_are_each_drawn_in_their_own(pulse):
    pulse("-save_latent")
    pulse("-save_latent", "-precision", "bfloat16", "-output_dir", "half")
    before = {**files(pulse.runs, ".png"), "b.png": (pulse.root / "half/b.png").read_bytes()}
    assert before != files(pulse.runs, ".png")
    for order in (1, -1):
        latents = ["runs/a.npz", "half/b.npz"][::order]
        pulse("-render", *latents, "-output_dir", "again", "-overwrite")
        assert files(pulse.root / "again", ".png") == before


def test_a_latent_of_another_generator_is_refused_by_name(pulse, tmp_path):
    other = one_file(tmp_path / "other.pt", seed=1)
    pulse("-save_latent")
    record = json.loads((pulse.runs / "a.json").read_text())
    done = pulse("-render", "runs/a.npz", "-output_dir", "again", generator=other, status=1)
    assert done.err.count("\n") == 1
    sha256 = PULSE(other, "cpu").generator.sha256
    for part in ("tiny.pt", record["generator"]["sha256"][:8], "other.pt", sha256[:8]):
        assert part in done.err
    assert not files(pulse.root / "again", ".png")


def test_nothing_is_drawn_over_a_picture_unasked(pulse):
    pulse("-save_latent")
    shutil.copy(pulse.runs / "a.npz", pulse.root / "b.npz")
    (pulse.runs / "b.png").write_bytes(b"mine")
    before = files(pulse.runs, ".png")
    done = pulse("-render", "runs/a.npz", "runs/b.npz", status=1)
    assert files(pulse.runs, ".png") == before
    assert done.err.count("is there: give another -output_dir, or -overwrite") == 2
    pulse("-render", "runs/a.npz", "runs/b.npz", "-overwrite")
    assert (pulse.runs / "b.png").read_bytes() != b"mine"
    args = ("-output_dir", "again", "-render", "runs/b.npz", "b.npz", "runs/a.npz")
    done = pulse(*args, status=1)  # of two with one name the first is drawn
    assert done.err.count("has the same name") == 1 and "2 pictures drawn again" in done.out


def arrays_of(path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


def damages(path) -> dict[str, bytes]:
    """Files that are no latent files of ours, or no longer."""

    def saved(**changes) -> bytes:
        arrays = {**arrays_of(path), **changes}
        file = io.BytesIO()
        np.savez(file, **{name: value for name, value in arrays.items() if value is not None})
        return file.getvalue()

    def recorded(**changes) -> bytes:
        record = {**json.loads(arrays_of(path)["record"].item()), **changes}
        return saved(record=np.array(json.dumps(record)))

    record = json.loads(arrays_of(path)["record"].item())
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("format", "w", "record"):
            archive.writestr(f"{name}.npy", b"\0" * (150 << 20))
    plain = io.BytesIO()
    np.save(plain, np.zeros(3))
    whole, w = path.read_bytes(), arrays_of(path)["w"]
    broken = np.array([{}, []], dtype=object)
    return {
        "empty": b"",
        "text": b"nothing of the kind",
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:300] + bytes(255 - byte for byte in whole[300:700]) + whole[700:],
        "array": plain.getvalue(),
        "bomb": bomb.getvalue(),
        "foreign": saved(format=None),
        "newer": saved(format=np.array("pulse-latent-9")),
        "no_w": saved(w=None),
        "no_record": saved(record=None),
        "no_map": saved(noise_1=None),
        "more_maps": saved(noise_5=w),
        "odd_map": saved(noise_x=w),
        "objects": saved(w=broken),
        "doubles": saved(w=w.astype(np.float64)),
        "short": saved(w=w[:, :3]),
        "one_row": saved(w=w[:1]),
        "flat": saved(w=w[0]),
        "nan": saved(w=w * np.nan),
        "json": saved(record=np.array("{")),
        "list": saved(record=np.array("[]")),
        "seed": recorded(seed=-1),
        "threads": recorded(threads=10**9),
        "settings": recorded(settings={}),
        "steps": recorded(settings={**record["settings"], "steps": "many"}),
        "layers": recorded(settings={**record["settings"], "bad_noise_layers": "17"}),
        "generator": recorded(generator={"name": "x"}),
        "l2": recorded(l2="small"),
        "true_seed": recorded(seed=True),
        "true_threads": recorded(threads=True),
        "precision": recorded(settings={**record["settings"], "precision": ["tf32"]}),
    }


def test_damaged_latent_files_are_one_sentence_each_and_the_rest_is_drawn(pulse):
    pulse("-save_latent")
    (pulse.root / "bad").mkdir()
    for name, content in damages(pulse.runs / "a.npz").items():
        (pulse.root / "bad" / f"{name}.npz").write_bytes(content)
    (pulse.root / "bad" / "folder.npz").mkdir()
    os.mkfifo(pulse.root / "bad" / "pipe.npz")
    bad = sorted((pulse.root / "bad").iterdir()) + [pulse.root / "bad" / "missing.npz"]
    done = pulse("-render", *bad, "runs/a.npz", "-output_dir", "again", status=1)
    lines = [line for line in done.err.splitlines() if line.startswith("refused: ")]
    assert [line.split(": ")[1] for line in lines] == list(map(str, bad))
    assert all(len(line.split(": ", 2)[2]) > 20 for line in lines)
    assert len(done.err.splitlines()) == len(bad) + 1
    assert list(files(pulse.root / "again", ".png")) == ["a.png"]
    assert f"1 picture drawn again in again; {len(bad)} files refused" in done.out
    generator = PULSE("demo64", "cpu").generator
    for path in bad:
        with pytest.raises(UserError):
            redraw(generator, generator.synthesis, path)


def test_a_generator_that_is_gone_or_elsewhere_costs_its_own_file_only(pulse):
    pulse("-save_latent")
    arrays = arrays_of(pulse.runs / "a.npz")
    for name in ("gone.pt", "https://127.0.0.1:1/x.pt"):
        record = json.loads(arrays["record"].item())
        record["generator"]["name"] = name
        changed = {**arrays, "record": np.array(json.dumps(record))}
        np.savez(pulse.root / f"{name[:4]}.npz", **changed)
    args = ("-render", "gone.npz", "http.npz", "runs/b.npz", "-output_dir", "again")
    done = pulse(*args, status=1, generator=None)
    assert list(files(pulse.root / "again", ".png")) == ["b.png"]
    first, second, _ = done.err.splitlines()
    assert first.startswith("refused: gone.npz: ") and "gone.pt" in first
    assert second.endswith("-generator https://127.0.0.1:1/x.pt fetches it")  # nobody was asked


def test_drawing_into_a_folder_that_cannot_be_is_one_line(pulse):
    pulse("-save_latent")
    (pulse.root / "file").write_text("in the way")
    done = pulse("-render", "runs/a.npz", "-output_dir", "file", status=2)
    assert done.err.count("\n") == 1 and "is no folder" in done.err


def test_a_result_without_a_whole_latent_is_made_again_to_the_same_bytes(pulse):
    pulse()
    before = files(pulse.runs, ".png")
    assert "results kept" not in pulse("-save_latent").out
    assert files(pulse.runs, ".png") == before
    latents = files(pulse.runs, ".npz")
    assert set(latents) == {"a.npz", "b.npz"}
    assert "2 results kept" in pulse("-save_latent").out
    assert "2 results kept" in pulse().out and files(pulse.runs, ".npz") == latents
    (pulse.runs / "a.npz").write_bytes(latents["a.npz"][:500])
    shutil.copy(pulse.runs / "a.npz", pulse.root)
    (pulse.runs / "b.npz").unlink()
    pulse("-save_latent")
    assert files(pulse.runs, ".npz") == latents and files(pulse.runs, ".png") == before
    (pulse.runs / "a.npz").write_bytes(latents["b.npz"])  # whole, but of another picture
    assert "1 result kept" in pulse("-save_latent").out
    assert files(pulse.runs, ".npz") == latents


def test_a_latent_goes_with_its_picture(pulse):
    pulse("-save_latent")
    assert set(files(pulse.runs, ".npz")) == {"a.npz", "b.npz"}
    pulse("-save_latent", "-eps", 1e-9, "-overwrite")
    assert set(files(pulse.runs, ".npz")) == {"outside_eps/a.npz", "outside_eps/b.npz"}
    pulse("-seed", 1, "-overwrite")
    assert not files(pulse.runs, ".npz") and len(files(pulse.runs, ".png")) == 2


BETWEEN = [  # when all is written, and before animation, record, latent and picture appear
    ("runner.folder", "write_result", 0),
    *(("os", "replace", survived) for survived in range(4)),
]


def test_a_run_that_is_killed_between_any_two_files_goes_on_to_the_same_bytes(pulse, start, tiny):
    args = ("-save_latent", "-animation", "gif", "-input_dir", "input/a.png")
    pulse(*args)
    expected = files(pulse.runs, ".png", ".npz", ".gif")
    assert len(expected) == 3
    fixed = ("-device", "cpu", "-threads", 1, "-seed", 0, "-steps", STEPS, "-eps", EPS)
    for i, function in enumerate(BETWEEN):
        words = ("-generator", tiny, *fixed, *args, "-output_dir", f"killed_{i}")
        process = start(words, pulse.root, killed_in=function)
        assert process.wait() == -signal.SIGKILL, (function, process.output)
    killed = sorted(pulse.root.glob("killed_*"))
    assert len(killed) == len(BETWEEN)
    for folder in killed:
        assert not files(folder, ".png")  # the picture is the last: where it is, all is
        for path in folder.rglob("*.npz"):
            read_latent(path)
        pulse(*args, "-output_dir", folder.name)
        assert files(folder, ".png", ".npz", ".gif") == expected
        assert [path.name for path in folder.rglob(".*")] == [".pulse.lock"]


def test_render_files_needs_no_search_settings(pulse, capsys):
    """The function behind -render, called as run.py calls it."""
    pulse("-save_latent")
    options = RunOptions(render=[pulse.runs / "a.npz"], output_dir=pulse.root / "again", quiet=True)
    assert render_files(options) == 0
    assert "1 picture drawn again" in capsys.readouterr().out
    assert (pulse.root / "again" / "a.png").read_bytes() == (pulse.runs / "a.png").read_bytes()
    assert render_files(options) == 1  # nothing is drawn over a picture unasked
