"""Cut the faces out of photographs, upright and centred as in FFHQ, and downscale them for run.py.

Put photographs into the folder realpics (or input) and run this once, then run.py:

    python align_face.py
        every face of every photograph becomes input/<photo>_<face>.png, 32x32 pixels; faces are
        numbered from 0, left to right

    python align_face.py -input_dir holiday.jpg -output_dir faces -output_size 64 -upscale 2
        one photograph, whose faces are small: enlarged x2 before faces are searched in it

Pictures that are aligned already, or that show no face the detector knows, need no search:
-mode resize takes their central square and downscales it just as well.

    python align_face.py -output_dir noisy -degrade gaussian:25 -seed 0
        the same faces with noise, as in the paper's robustness experiment: gaussian:STD (of 255)
        and saltpepper:SHARE after downscaling; motion:LENGTH (pixels of a square of 1024, in a
        random direction) before it

Faces that are there already, from the same photograph and the same flags, are kept; a file that is
not a face of the photograph is never written over. In photographs of more than 16 million pixels
faces are searched on a reduced copy and cut out of the photograph itself.

Exit status: 0 every photograph has its faces; 1 some were refused or show no face, the others are
done; 2 the flags or folders cannot be used, nothing was begun.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from cli.command import OK, SOME_REFUSED, Parser, run_command
from cli.errors import UserError
from cli.progress import Progress, count, some, tell
from safe_files import require_folder_writable

if TYPE_CHECKING:  # -h answers before anything heavy is imported
    from imaging.face_crop import FaceFinder

SETTINGS = "pulse:align"  # text chunk: the flags a face was made with
DEGRADED = "pulse:degraded"  # text chunk: what -degrade did to it


def parser() -> Parser:
    parser = Parser(__doc__)
    parser.flag(
        "input_dir",
        "folder of photographs, or one photograph",
        default="realpics" if Path("realpics").is_dir() else "input",
        shown="realpics where that folder exists, else input",
        type=Path,
    )
    parser.flag("output_dir", "folder for the faces", default="input", type=Path)
    parser.flag(
        "output_size",
        "pixels a side: a divisor of 1024, at least 2; 0 or 1024 keep the crop as it is",
        default=32,
        type=int,
    )
    parser.flag("cache_dir", "folder for the downloaded landmark model", default="cache", type=Path)
    parser.flag(
        "upscale",
        "enlarge photographs (bicubic) by this factor before faces are searched, for small ones",
        default=1.0,
        shown="1",
        type=float,
    )
    parser.flag(
        "mode",
        "face: find faces and cut them out; resize: take the central square, without a search",
        default="face",
        choices=["face", "resize"],
    )
    parser.flag(
        "degrade",
        "gaussian:STD (of 255), saltpepper:SHARE or motion:LENGTH (pixels of 1024): noise on the "
        "downscaled face, blur before downscaling",
    )
    parser.flag(
        "seed", "of -degrade; each face has numbers of its own", shown="drawn and printed", type=int
    )
    parser.flag("overwrite", "make faces again that are there already", action="store_true")
    parser.flag("quiet", "tell errors and the summary only", action="store_true")
    return parser


def check_flags(args) -> None:
    """Raises: UserError for values that no photograph could be used with."""
    from imaging import degradations
    from imaging.face_crop import CROP
    from search_settings import require_seed

    if args.output_size != 0 and (args.output_size < 2 or CROP % args.output_size):
        raise UserError(
            f"-output_size {args.output_size} does not divide {CROP}: give 2, 4, 8, 16, 32, 64, "
            f"128, 256 or 512, or 0 to keep the crop"
        )
    if not 0 < args.upscale < math.inf:
        raise UserError(f"-upscale {args.upscale:g} is no factor: give a number above 0, such as 2")
    if args.mode == "resize" and args.upscale != 1:
        raise UserError("-upscale is for the search for faces: leave it out with -mode resize")
    if args.seed is not None and args.degrade is None:
        raise UserError(
            "-seed is for -degrade: leave it out, or add for example -degrade motion:100"
        )
    if args.degrade is not None:
        args.degrade = degradations.parse(args.degrade)
    if args.seed is not None:
        require_seed(args.seed)


def main() -> int:
    args = parser().parse_args()
    check_flags(args)
    from imaging.face_crop import CROP, FaceFinder
    from imaging.pictures import pictures_in
    from imaging.provenance import ALIGNED_FROM, picture_text

    pictures, others = pictures_in(args.input_dir, "-input_dir", "photographs")
    require_folder_writable(args.output_dir, "-output_dir")
    photos = [picture for picture in pictures if ALIGNED_FROM not in picture_text(picture)]
    aligned = len(pictures) - len(photos)
    settle_seed(photos, args)
    todo = [photo for photo in photos if args.overwrite or not is_done(photo, args)]
    try:
        finder = (
            FaceFinder(args.cache_dir, not args.quiet) if todo and args.mode == "face" else None
        )
    except UserError as error:
        raise UserError(error) from None

    if others and not args.quiet:
        tell(f"passed over, no pictures: {some(others)}", file=sys.stderr)
    stems = Counter(os.path.normcase(photo.stem) for photo in photos)
    faces, refused = {}, 0
    progress = Progress(len(todo), "photograph", quiet=args.quiet)
    for photo in todo:
        progress.live(photo.name)
        try:
            if stems[os.path.normcase(photo.stem)] > 1:
                name = result(photo, 0, args).name
                raise UserError(f"another photograph would become {name} too: rename one of them")
            faces[photo] = write_faces(photo, finder, args)
        except UserError as error:
            progress.error(f"{photo.name}: {error}")
            refused += 1
        progress.advance()
    progress.close()

    if todo:
        size = args.output_size or (CROP if args.mode == "face" else 0)
        made = f"{count(sum(faces.values()), 'face')} from {count(len(faces), 'photograph')}"
        tell(f"{made} in {args.output_dir}" + f", {size}x{size} pixels" * bool(size))
    if len(todo) < len(photos):
        kept = count(len(photos) - len(todo), "photograph")
        tell(f"{kept} passed over: the faces are there already (-overwrite makes them again)")
    if aligned:
        tell(f"{count(aligned, 'picture')} passed over: made by align_face.py")
    if refused:
        tell(f"{count(refused, 'photograph')} without a result, for the reasons above")
    if len(pictures) > refused and args.output_size not in (0, CROP):
        where = f" -input_dir {shlex.quote(str(args.output_dir))}"
        tell(f"Next: python run.py{'' if args.output_dir == Path('input') else where}")
    return SOME_REFUSED if refused else OK


def settle_seed(photos: list[Path], args) -> None:
    """The seed of -degrade where none was given: that of the faces which are there, or a new
    one.
    """
    from imaging.provenance import picture_text

    if args.degrade is None or args.seed is not None:
        return
    told = "that of the faces which are there"
    for photo in [] if args.overwrite else photos:
        there = re.fullmatch(
            rf"{re.escape(str(args.degrade))} -seed (\d+)",
            degraded(picture_text(result(photo, 0, args))),
        )
        if there:
            args.seed = int(there[1])
            break
    else:
        args.seed, told = secrets.randbelow(2**31), "drawn"
    if not args.quiet:
        tell(f"seed {args.seed}, {told} (-seed {args.seed} repeats this run)", file=sys.stderr)


def result(photo: Path, face: int, args) -> Path:
    return args.output_dir / f"{photo.stem}_{face}.png"


def marks(photo: Path, args) -> dict[str, str]:
    """What the text chunks of all faces of `photo` say. Raises: OSError."""
    from imaging.provenance import ALIGNED_FROM, ALIGNED_SHA256, storable
    from safe_files import sha256

    degrade = f" -degrade {args.degrade} -seed {args.seed}" if args.degrade else ""
    return {
        ALIGNED_FROM: storable(photo.name),
        ALIGNED_SHA256: sha256(photo),
        SETTINGS: f"-mode {args.mode} -output_size {args.output_size} -upscale {args.upscale:g}"
        + degrade,
    }


def degraded(text: dict[str, str]) -> str:
    """How a face with these text chunks was degraded: `gaussian:25 -seed 7`, or ""."""
    return text.get(SETTINGS, "").partition(" -degrade ")[2]


def is_done(photo: Path, args) -> bool:
    """Whether face 0, which is written last, is there, from this photograph by these flags."""
    from imaging.provenance import picture_text

    text = picture_text(result(photo, 0, args))
    try:
        return bool(text) and marks(photo, args).items() <= text.items()
    except OSError:
        return False


def is_ours(file: Path, photo: Path) -> bool:
    from imaging.provenance import ALIGNED_FROM, picture_text, storable

    return picture_text(file).get(ALIGNED_FROM) == storable(photo.name)


def require_free(file: Path, photo: Path, args) -> None:
    """Raises: UserError where `file` is something else, or the face in another state of damage."""
    from imaging.provenance import picture_text

    if not os.path.lexists(file):
        return
    if not is_ours(file, photo):
        raise UserError(f"{file} is there and is not a face of it: move or rename one of them")
    there = degraded(picture_text(file))
    wanted = f"{args.degrade} -seed {args.seed}" if args.degrade else ""
    if there != wanted and not args.overwrite:
        was = f"degraded by {there}" if there else "not degraded"
        raise UserError(f"{file} is there, {was}: give another -output_dir, or -overwrite")


def write_faces(photo: Path, finder: FaceFinder | None, args) -> int:
    """Write the faces of `photo`, or with no finder its central square; return how many.

    Raises: UserError.
    """
    from imaging.degradations import numbers
    from imaging.face_crop import align, central_square, downscale, enlarged
    from imaging.pictures import read_picture
    from imaging.provenance import ALIGNED_FACE, write_png

    require_free(result(photo, 0, args), photo, args)  # before the search, which takes seconds
    try:
        picture = read_picture(photo)
        if finder is None:
            crops = [central_square(picture, args.output_size)]
        else:
            picture = enlarged(picture, args.upscale)
            crops = [align(picture, landmarks) for landmarks in finder.landmarks(picture)]
        told = [""] * len(crops)
        for face, crop in enumerate(crops):
            if args.degrade:
                chance = numbers(args.seed, photo.name, face)
                crop, told[face] = args.degrade.of_hr(crop, chance)
            if args.output_size not in (0, crop.width):
                crop = downscale(crop, args.output_size)
            crops[face] = args.degrade.of_lr(crop, chance) if args.degrade else crop
    except UserError as error:
        raise UserError(error) from None
    except MemoryError:
        raise UserError("it does not fit into memory: make it smaller first") from None
    except Exception as error:  # dlib raises RuntimeError and more; the other photographs go on
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"its face cannot be cut out ({why}): try -mode resize") from None
    if not crops:
        raise UserError(
            "no face was found in it: try -upscale 2 for a small photograph, -mode resize for one "
            "that is aligned already"
        )
    files = [result(photo, face, args) for face in range(len(crops))]
    for file in files:
        require_free(file, photo, args)
    try:
        for face in reversed(range(len(crops))):  # face 0 last: where it is, all are
            text = marks(photo, args) | {ALIGNED_FACE: str(face)}
            if args.degrade:
                text[DEGRADED] = f"{args.degrade}, seed {args.seed}{told[face]}"
            write_png(files[face], crops[face], text)
        face = len(crops)
        while is_ours(result(photo, face, args), photo):  # of an earlier run that found more
            result(photo, face, args).unlink()
            face += 1
    except OSError as error:
        raise UserError(
            f"its faces cannot be written to {args.output_dir} ({error.strerror}): make "
            f"room there and run this again"
        ) from None
    return len(crops)


if __name__ == "__main__":
    run_command(main)
