"""Faces to train on: what is read, what is skipped, and whether they are the same."""

import numpy as np
import pytest
import torch
from PIL import Image

from cli.errors import UserError
from training.checkpoint import read_checkpoint, write_log
from training.dataset import fingerprint, load_faces, to_range


def test_square_pictures_are_read_in_order_and_others_named(tmp_path, capsys):
    for i in range(3):
        Image.new("RGB", (32, 32), (10 * i, 20, 30)).save(tmp_path / f"{i}.png")
    Image.new("RGB", (32, 40)).save(tmp_path / "tall.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    (tmp_path / "notes.txt").write_text("no picture")
    faces = load_faces([tmp_path], 16, fewest=3)
    assert faces.shape == (3, 3, 16, 16) and faces.dtype == torch.uint8
    assert faces[:, 0, 0, 0].tolist() == [0, 10, 20]
    told = capsys.readouterr().err
    assert all(f"skipped: {tmp_path / name}" in told for name in ("tall.png", "notes.txt"))
    assert "it is 8 pixels wide, and 16 are trained" in told
    with pytest.raises(UserError, match="holds 3 pictures that can be used, and at least 4"):
        load_faces([tmp_path], 16, fewest=4)


def test_an_array_must_hold_faces_of_that_size(tmp_path):
    faces = torch.arange(2 * 3 * 16 * 16).remainder(256).byte().view(2, 3, 16, 16)
    np.save(tmp_path / "faces.npy", faces.numpy())
    assert torch.equal(load_faces([tmp_path / "faces.npy"], 16, fewest=2), faces)
    with pytest.raises(UserError, match="not uint8"):
        load_faces([tmp_path / "faces.npy"], 32)
    np.save(tmp_path / "names.npy", np.array(["a.png", "b.png"]))
    with pytest.raises(UserError, match=r"names.npy holds <U5 \(2,\), not uint8"):
        load_faces([tmp_path / "names.npy"], 16)
    with open(tmp_path / "several.npy", "wb") as file:
        np.savez(file, faces=faces.numpy())
    with pytest.raises(UserError, match="several.npy is an archive of arrays"):
        load_faces([tmp_path / "several.npy"], 16)
    whole = (tmp_path / "several.npy").read_bytes()
    for damaged in (b"", whole[:-30], (tmp_path / "faces.npy").read_bytes()[:-1]):
        (tmp_path / "damaged.npy").write_bytes(damaged)
        with pytest.raises(UserError, match="damaged.npy cannot be read"):
            load_faces([tmp_path / "damaged.npy"], 16)
    assert fingerprint(faces) == fingerprint(faces.clone()) != fingerprint(faces.flip(3))
    assert to_range(faces).min() == -1 and to_range(faces).max() == 1


def test_a_checkpoint_that_is_none_is_one_sentence_and_none_is_none(tmp_path):
    assert read_checkpoint(tmp_path / "checkpoint.pt") is None
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="no checkpoint"):
        read_checkpoint(tmp_path / "checkpoint.pt")
    write_log(tmp_path / "log.csv", [{"images": 0, "swd": 2.5}, {"images": 64, "kid": 1.5}])
    lines = (tmp_path / "log.csv").read_text().split()
    assert lines == ["images,swd,kid", "0,2.5,", "64,,1.5"]
