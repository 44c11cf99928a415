"""Cut the faces out of photographs, upright and centred as in FFHQ, and downscale them for run.py.

Put photographs into the folder realpics (or input) and run this once, then run.py:

    python align_face.py
        every face of every photograph becomes input/<photo>_<face>.png, 32x32 pixels; faces are
        numbered from 0, left to right

    python align_face.py -input_dir holiday.jpg -output_dir faces -output_size 64 -upscale 2
        one photograph, whose faces are small: enlarged x2 before faces are searched in it

    python align_face.py -faces largest -min_size 80
        of each photograph only the largest face, if it is at least 80 pixels wide; the detector's
        scores are printed and stand in faces.csv, beside the faces

A photograph that shows no face is searched again on its sides and its head, and the turn that held
one is said. Pictures that are aligned already, or that show no face the detector knows, need no
search: -mode resize takes their central square and downscales it just as well.

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

import shlex
import sys
from dataclasses import replace
from pathlib import Path

from cli.command import OK, SOME_REFUSED, Parser, run_command
from cli.errors import UserError
from cli.progress import Progress, count, some, tell
from safe_files import require_folder_writable


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
        "pixels a side: a divisor of 1024, at least 2; 0 or 1024 keep the crop at its size",
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
        "faces",
        "all, largest, or a number: so many of the largest faces of each photograph",
        default="all",
    )
    parser.flag(
        "min_size",
        "pass over faces whose square, brow to chin, has fewer pixels a side in the photograph",
        default=0,
        type=int,
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
    parser.flag("quiet", "print errors and the summary only", action="store_true")
    return parser


def main() -> int:
    args = parser().parse_args()
    # Here, so that -h answers before anything heavy is imported.
    from imaging.degradations import parse
    from imaging.face_choice import FaceChoice
    from imaging.face_crop import CROP, FaceFinder
    from imaging.face_files import AlignOptions, Photograph, settled_seed
    from imaging.face_records import FaceRecords, summary
    from imaging.pictures import clashes, pictures_in
    from imaging.provenance import ALIGNED_FROM, picture_text

    options = AlignOptions(
        output_dir=args.output_dir,
        output_size=args.output_size,
        upscale=args.upscale,
        choice=FaceChoice.parse(args.faces, args.min_size),
        mode=args.mode,
        degradation=None if args.degrade is None else parse(args.degrade),
        seed=args.seed,
        overwrite=args.overwrite,
    )
    pictures, others = pictures_in(args.input_dir, "-input_dir", "photographs")
    require_folder_writable(args.output_dir, "-output_dir")
    paths = [path for path in pictures if ALIGNED_FROM not in picture_text(path)]
    if options.degradation and options.seed is None:
        seed, origin = settled_seed(paths, options)
        options = replace(options, seed=seed)
        if not args.quiet:
            tell(f"seed {seed}, {origin} (-seed {seed} repeats this run)", file=sys.stderr)
    photographs = [Photograph(path, options) for path in paths]
    todo = [photograph for photograph in photographs if args.overwrite or not photograph.is_done()]
    search = todo and args.mode == "face"
    records = FaceRecords(args.output_dir) if search else None
    finder = FaceFinder(args.cache_dir, not args.quiet) if search else None

    if others and not args.quiet:
        tell(f"skipped, no pictures: {some(others)}", file=sys.stderr)
    rivals = clashes(paths, "become {stem}_0.png too")
    made, unlisted = [], 0  # the faces of each photograph that is done; how many are not listed
    progress = Progress(len(todo), "photograph", quiet=args.quiet)
    for photograph in todo:
        progress.live(photograph.path.name)
        try:
            if photograph.path in rivals:
                raise UserError(rivals[photograph.path])
            made.append(photograph.write_faces(finder))
            if records:
                progress.say(f"{photograph.path.name}: {summary(made[-1])}")
                unlisted += 1
                records.add(made[-1])
                unlisted -= 1
        except UserError as error:
            progress.error(f"{photograph.path.name}: {error}")
        progress.advance()
    progress.close()
    if records:
        records.tidy()

    refused, aligned = len(todo) - len(made), len(pictures) - len(paths)
    if todo:
        size = args.output_size or (CROP if args.mode == "face" else 0)
        faces = f"{count(sum(map(len, made)), 'face')} from {count(len(made), 'photograph')}"
        tell(f"{faces} in {args.output_dir}" + f", {size}x{size} pixels" * bool(size))
    if len(todo) < len(photographs):
        kept = count(len(photographs) - len(todo), "photograph")
        tell(f"{kept} skipped: the faces are there already (-overwrite makes them again)")
    if aligned:
        tell(f"{count(aligned, 'picture')} skipped: made by align_face.py")
    if refused:
        tell(f"{count(refused, 'photograph')} without a result, for the reasons above")
    if len(pictures) > refused and args.output_size not in (0, CROP):
        where = f" -input_dir {shlex.quote(str(args.output_dir))}"
        tell(f"Next: python run.py{'' if args.output_dir == Path('input') else where}")
    return SOME_REFUSED if refused or unlisted else OK


if __name__ == "__main__":
    run_command(main, resumes=True)
