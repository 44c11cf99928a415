"""Weight files of StyleGAN, StyleGAN2 and StyleGAN3 generators: the formats that are read, told
apart by what is in a file, never by its name.

To add one: a file with its `recognises` and `read`, and one line in READERS. What all of them need
is in networks.py (from tensors to networks) and safe_loading.py (nothing in a file is ever run).

A new family of networks is a file with the network, and its name in FAMILIES here, in
networks.build_later_family and, for a fast form, in FORMS of fast/choose.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cli.errors import UserError
from generators import (
    genforce,
    lernapparat,
    nvidia,
    nvidia_pytorch,
    nvidia_tensorflow,
    persistent,
    rosinality,
)
from generators.networks import (
    Networks,
    build_later_family,
    build_mapping,
    build_synthesis,
    read_prior,
)
from generators.safe_loading import StandIns, load_content
from generators.wrong_files import another_network, what_is
from stylegan import G_mapping

FORMAT = "pulse-generator-1"  # of StyleGAN1
FORMAT_2 = "pulse-generator-2"  # its config names the family, one of those below
FAMILIES = {
    "stylegan1": "StyleGAN",
    "stylegan2": "StyleGAN2",
    "stylegan3-t": "StyleGAN3, configuration T",
    "stylegan3-r": "StyleGAN3, configuration R",
}


ONE_FILE = (FORMAT, FORMAT_2)


class Reader(NamedTuple):
    """One format. Both functions take what `load_content` gives."""

    name: str  # as `convert.py FILE -info` prints it
    recognises: Callable[[dict], bool]
    read: Callable[[dict], Networks]  # raises UserError, worded to follow the name of the file
    stand_ins: StandIns = {}  # for what its pickles ask for


def _read_one_file(content: dict) -> Networks:
    """This project's own format, as `save_generator` writes it."""
    config, about = content.get("config"), content.get("about")
    about = {} if about is None else about
    of_first = content["format"] == FORMAT
    needed = {"resolution", "fmap_base", "fmap_max", "dlatent_size"} if of_first else {"family"}
    if not isinstance(config, dict) or not needed <= config.keys() or not isinstance(about, dict):
        raise UserError(
            f"lacks its config or what is said about it: it is no whole {content['format']} file"
        )
    if of_first:
        config = {name: config[name] for name in (*needed, "fmap_decay") if name in config}
        synthesis = build_synthesis(content.get("synthesis"), config)
    else:
        synthesis = build_later_family(content.get("synthesis"), config)
    mapping, fit = content.get("mapping"), content.get("gaussian_fit")
    mapping = None if mapping is None else build_mapping(mapping)
    prior = None if fit is None else read_prior(fit, synthesis.dlatent_size)
    return Networks(synthesis, mapping, prior, about)


def _read_pulse(content: dict) -> Networks:
    """PULSE's `synthesis.pt`; `read_networks` adds the `mapping.pt` beside it."""
    if "torgb.weight" not in content:
        raise UserError(
            "holds a mapping network: give its synthesis.pt, with the mapping beside it"
        )
    return Networks(build_synthesis(content), None)


# In the order in which they are tried.
READERS = (
    Reader("one file", lambda content: content.get("format") in ONE_FILE, _read_one_file),
    Reader("genforce", genforce.recognises, genforce.read),
    Reader("lernapparat", lernapparat.recognises, lernapparat.read),
    Reader("PULSE", {"torgb.weight", "dense0.weight"}.intersection, _read_pulse),
    Reader("rosinality", rosinality.recognises, rosinality.read),
    Reader("NVIDIA StyleGAN2 pickle, TensorFlow", nvidia.is_stylegan2, nvidia_tensorflow.read),
    Reader("NVIDIA pickle", nvidia.recognises, nvidia.read, nvidia.STAND_INS),
    Reader(
        "NVIDIA pickle, PyTorch",
        nvidia_pytorch.recognises,
        nvidia_pytorch.read,
        persistent.STAND_INS,
    ),
)


def read_networks(path: Path, mapping_path: Path | None = None) -> Networks:
    """The networks of a file, or of a folder or pair in PULSE's format, strictly loaded.

    Where the file has neither a mapping network nor a prior, the mapping is that of `mapping_path`,
    or else of a mapping.pt beside it. Raises: UserError, one sentence, for what is no such file, is
    damaged, or does not fit: then naming the first key that differs.
    """
    in_folder = Path(path, "synthesis.pt")
    path = in_folder if os.path.isfile(in_folder) else Path(path)
    with _naming(path):
        content = load_content(path, *(reader.stand_ins for reader in READERS))
        reader = next((reader for reader in READERS if reader.recognises(content)), None)
        if reader is None:
            raise UserError(another_network(content))
        networks = reader.read(content)
    networks.origin = reader.name
    if networks.mapping is None and networks.prior is None:
        mapping_path = mapping_path or _mapping_beside(path)
        networks.mapping = None if mapping_path is None else read_mapping(mapping_path)
    width = networks.synthesis.dlatent_size
    if networks.mapping is not None and networks.mapping.dlatent_size != width:
        raise UserError(
            f"{path} takes latents of {width} numbers, but its mapping network makes "
            f"{networks.mapping.dlatent_size}: they do not belong together"
        )
    return networks


def read_stylegan1(path: Path) -> Networks:
    """`read_networks` for what trains: StyleGAN alone. Raises: UserError for later families too."""
    networks = read_networks(path)
    if networks.synthesis.family != "stylegan1":
        family = FAMILIES[networks.synthesis.family]
        raise UserError(f"{path} is a {family}: what is trained here is a StyleGAN, give one")
    return networks


def read_mapping(path: Path) -> G_mapping:
    """The network of a `mapping.pt`. Raises: UserError."""
    with _naming(path):
        return build_mapping(load_content(path))


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raises: UserError that begins with `path`, for a UserError worded to follow it and for an
    OSError.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{path} {what_is(path) or error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror}): give another") from None


def _mapping_beside(path: Path) -> Path | None:
    """`mapping.pt` beside `synthesis.pt`; the 2020 release put a checksum before each name."""
    candidates = [path.with_name("mapping.pt")]
    if "synthesis" in path.name:
        candidates.insert(0, path.with_name(path.name.replace("synthesis", "mapping")))
    prefixed = list(path.parent.glob("*_mapping.pt"))
    if len(prefixed) == 1:
        candidates += prefixed
    return next((file for file in candidates if file.is_file()), None)
