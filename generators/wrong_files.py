"""What a file is that was given for the weights of a generator and is something else: one sentence,
worded to follow the name of the file, with what to do.

Nothing here decides whether a file is read: it is asked once reading has failed.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

FORMATS = "docs/generators.md lists the formats that are read, and where to get weights"
HEAD = 1024  # bytes that are looked at

# How files begin, as a regular expression, what they are, and what to do.
BEGINNINGS = (
    (
        rb"version https://git-lfs\.github\.com/spec/",
        "is a Git LFS pointer, which stands for the file in a repository",
        "fetch the file itself, with `git lfs pull` or by its download link",
    ),
    (
        rb"\s*(<!--.*?-->\s*)*<(!doctype html|html|head|body|script)\b",
        "is a web page, as a download link gives where it wants to be confirmed or has expired",
        "open the link in a browser and save the file itself",
    ),
    (rb"\s*<(\?xml|Error)\b", "is XML, perhaps a server's refusal", "download the file itself"),
    (rb".{8}\{\s*\"", "is a safetensors file", "give the file that PyTorch or NVIDIA's code wrote"),
    (
        rb"\x08[\x01-\x20](\x12[\x01-\x7f][ -~]|\x3a|\x42)",
        "is an ONNX model, which cannot be searched through",
        "give the checkpoint that it was exported from",
    ),
    (rb"\x93NUMPY", "is an array of numpy", FORMATS),
    (rb"\x89HDF\r\n", "is an HDF5 file, as Keras writes", FORMATS),
    (rb"GGUF|ggml|lmgg", "is a language model in the format GGUF", FORMATS),
    (rb".{4}TFL3", "is a TensorFlow Lite model", FORMATS),
    (rb"\x1f\x8b", "is packed with gzip", "unpack it (gunzip) and give what it holds"),
    (rb"BZh[1-9]", "is packed with bzip2", "unpack it (bunzip2) and give what it holds"),
    (rb"\xfd7zXZ\x00", "is packed with xz", "unpack it (unxz) and give what it holds"),
    (rb"\x28\xb5\x2f\xfd", "is packed with zstd", "unpack it (unzstd) and give what it holds"),
    (rb"7z\xbc\xaf\x27\x1c", "is a 7z archive", "unpack it and give the weight file in it"),
    (rb"Rar!\x1a\x07", "is a RAR archive", "unpack it and give the weight file in it"),
    (rb".{257}ustar", "is a tar archive", "unpack it (tar xf) and give the weight file in it"),
    (
        rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP|BM.{4}\0{4}|II\*\0|MM\0\*"
        rb"|.{4}ftyp(heic|heix|mif1|msf1|avif)",
        "is a picture",
        "pictures go into -input_dir; -generator takes ffhq, demo or a weight file",
    ),
    (rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI ", "is a video", FORMATS),
    (rb"%PDF-", "is a PDF document", FORMATS),
    (rb"\x7fELF|MZ", "is a program", FORMATS),
)
TORCH = "begins as a file of PyTorch does, but is cut off or damaged"
FETCH_AGAIN = "copy or fetch it again, whole"

# Keys of other networks' tensors, as a regular expression, and what those are.
NETWORKS = (
    (r"(^|\.)(model\.diffusion_model|(down|up)_blocks\.\d|input_blocks\.\d)", "a diffusion model"),
    (r"(^|\.)(lora_(up|down|[AB])|lora_te|lora_unet)\b", "a LoRA for a diffusion model"),
    (r"(^|\.)(quantize\.embedding|quant_conv|post_quant_conv)\b", "an autoencoder (VAE, VQGAN)"),
    (r"(^|\.)layer[1-4]\.\d+\.(conv|bn)\d\.", "a ResNet, which describes pictures"),
    (r"^(features\.\d+\.|classifier\.\d)", "a network that classifies pictures, such as VGG"),
    (r"(^|\.)(self_attn|attn|attention|cls_token|q_proj)\b", "a transformer"),
    (r"(^|\.)(RRDB_trunk|body\.\d+\.rdb\d)\b", "ESRGAN, which enlarges pictures"),
    (r"(^|\.)(from_?rgb|fromrgb|FromRGB(_lod\d)?|discriminator|d_basic|netD)\b", "a discriminator"),
)


def what_is(path: Path) -> str | None:
    """What a file is, where that is plain from its bytes; None of what may be weights, or cannot be
    opened.
    """
    try:
        if path.is_dir():
            return (
                "is a folder without synthesis.pt: name the weight file itself, or the folder of "
                "a synthesis.pt and its mapping.pt"
            )
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            return _by_content(file)
    except OSError:
        return None


def _by_content(file: BinaryIO) -> str | None:
    head = file.read(HEAD)
    if not head:
        return f"is empty (0 bytes): {FETCH_AGAIN}"
    if head.startswith(b"PK"):
        return _by_members(file)
    for beginning, what, advice in BEGINNINGS:
        if re.match(beginning, head, re.DOTALL | re.IGNORECASE):
            return f"{what}: {advice}"
    if not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", head):
        try:
            text = head.decode(errors="strict" if len(head) < HEAD else "ignore")
        except UnicodeDecodeError:
            return None
        return f"is text, which begins {' '.join(text.split())[:30]!r}: {FORMATS}"
    return None


def _by_members(file: BinaryIO) -> str | None:
    """Of a zip archive, which is what torch.save writes too."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except Exception:  # zipfile's own errors, and whatever else it makes of damaged archives
        return f"{TORCH}: {FETCH_AGAIN}"
    last = {name.rsplit("/")[-1] for name in names}
    if "constants.pkl" in last:
        return "is a TorchScript program: give the checkpoint that it was exported from"
    if "data.pkl" in last:
        return None
    if names and all(name.endswith(".npy") for name in names):
        if {"record.npy", "w.npy"} <= last:
            return "is a latent file: draw its picture with run.py -render"
        return f"is an archive of numpy (.npz): {FORMATS}"
    first = f", {names[0]} the first of them" if names else ""
    return (
        f"is a zip archive of {len(names)} file{'s' * (len(names) != 1)}{first}: unpack it and "
        f"give the weight file in it"
    )


def another_network(content: dict) -> str:
    """What holds no generator in a known format: the network that it is, where that is known, and
    what to do. content: as load_content gives it.
    """
    if content.get("format") == "pulse-training-1":
        return (
            "is a checkpoint of training.train: `python -m training.export` writes the generator "
            "of it to a file"
        )
    keys = list(_keys(content))
    for pattern, what in NETWORKS:
        if any(re.search(pattern, key) for key in keys):
            return f"holds {what}, not a StyleGAN generator: {FORMATS}"
    first = next(iter(content), "none")
    return (
        f"holds no generator in a known format (its first key is {first!r}): give one of those "
        f"that docs/generators.md lists"
    )


def _keys(content: object, depth: int = 3) -> Iterator[str]:
    """Every key of a dictionary and of those in it, down to `depth`."""
    if isinstance(content, dict) and depth:
        for key, value in content.items():
            if isinstance(key, str):
                yield key
            yield from _keys(value, depth - 1)
