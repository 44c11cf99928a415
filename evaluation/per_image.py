"""Results measured one input at a time, so that memory does not grow with their number.

    evaluation = Evaluation(problems, lr=PictureFolder(Path("input"), "-input_dir"))
    for results in read_results(Path("runs"), problems):
        evaluation.measure(results)

`evaluation.rows` then has the figures of every result, and of the nearest and bicubic enlargement
of its LR. What cannot be measured is a problem, one sentence, and the rest is measured all the
same. Nothing is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image

from cli.errors import UserError
from evaluation import metrics
from evaluation.results import OPTIONAL, PictureFolder, Problems, Result
from imaging.pictures import read_picture
from runner.jobs import pixels_sha256

CHANGED = (
    "it is another picture than the one that the results were made from: name the folder of that "
    "run's input"
)
# What a row can have, in the order of the CSV file. `l2` and what follows are of the 8-bit file,
# the figures that begin with `record_` of the picture as the search had it.
COLUMNS = (
    *("method", "name", "input", "group", "seed", "duplicate", "eps"),
    *("record_l2", "record_within_eps", "l2", "psnr", "within_eps", "clean_l2", "clean_psnr"),
    *("hr_l2", "hr_psnr", "ssim", "lpips", "niqe", "geocross", "best_step", "steps", "seconds"),
    "first_step",
)


@dataclass
class Evaluation:
    """The figures of results, input by input: call `measure` with the results of each.

    lr, hr, clean: where the LR inputs, the true HR and the undegraded LR are; None where they are
    not known. groups: input's file name → group.
    """

    problems: Problems
    lr: PictureFolder | None = None
    hr: PictureFolder | None = None
    clean: PictureFolder | None = None
    groups: dict[str, str] = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)  # keys of COLUMNS; what is unknown is missing
    diversity: list[dict] = field(default_factory=list)  # of inputs with several results

    def __post_init__(self):
        self.ssim, self.lpips, self.niqe = metrics.ssim(), metrics.lpips(), metrics.niqe()

    def measure(self, results: list[Result]) -> None:
        """All results of one input, and the enlargements of its LR."""
        pictures: dict[Result, Image.Image] = {}
        for result in results:
            try:
                pictures[result] = read_picture(result.path)
            except UserError as error:
                self.problems.add(f"left out, {error}", result.path.name)
        if not pictures:
            return
        first, size = next((result, picture.size) for result, picture in pictures.items())
        LR = self.read_lr(first)
        clean = self._read(self.clean, first.input, LR and LR.size)
        true = self._read(self.hr, first.input, size)
        for result, picture in pictures.items():
            row = {
                "method": "PULSE",
                "name": result.path.stem,
                "record_l2": result.l2,
                "record_within_eps": result.within_eps,
                "steps": result.steps,
                "first_step": result.first_step,
                **{key: getattr(result, key) for key in OPTIONAL},
            }
            self._add_row(row, result, picture, LR, clean, true)
        if LR is not None:
            for method, resample in (("nearest", Image.NEAREST), ("bicubic", Image.BICUBIC)):
                enlarged = LR.resize(size, resample)
                self._add_row({"method": method}, first, enlarged, LR, clean, true)
        if true is not None:
            self._add_row({"method": "true HR"}, first, true, LR, clean, None)
        if len({picture.size for picture in pictures.values()}) == 1 < len(pictures):
            self.diversity.append(
                {
                    "input": first.input,
                    "results": len(pictures),
                    "rmse": metrics.mean_over_pairs(pictures.values(), metrics.rmse),
                    "lpips": metrics.mean_over_pairs(pictures.values(), self.lpips),
                }
            )

    def read_lr(self, result: Result) -> Image.Image | None:
        """The input of a result; None, and a problem, where it is missing or another picture."""
        LR = self._read(self.lr, result.input)
        if LR is not None and pixels_sha256(LR) != result.pixels:
            self.problems.add(f"{self.lr.label}: {CHANGED}", result.input)
            return None
        return LR

    def notes(self) -> list[str]:
        """What computed SSIM, LPIPS and NIQE, and why some of it is missing: sentences."""
        external = (self.ssim, self.lpips, self.niqe)
        made_by = [f"{each.title}: {each.made_by}." for each in external if each.made_by]
        return made_by + [each.left_out for each in external if each.left_out]

    def _read(self, folder: PictureFolder | None, name: str, size=None) -> Image.Image | None:
        """The picture that belongs to an input; None, and a problem, where it cannot be used: also
        of another size than `size`, (width, height), where that is given.
        """
        if folder is None:
            return None
        try:
            picture = folder.read(name)
            if size is not None and picture.size != size:
                actual, needed = (f"{width}×{height}" for width, height in (picture.size, size))
                raise UserError(f"it is {actual}, and must be {needed}: align_face.py -output_size")
        except UserError as error:
            self.problems.add(f"{folder.label}: {error}", name)
            return None
        return picture

    def _add_row(self, row: dict, result: Result, picture, LR, clean, true) -> None:
        """Add the figures of `picture` to `row`, and the row to the others."""
        row |= {"input": result.input, "eps": result.eps}
        if result.input in self.groups:
            row["group"] = self.groups[result.input]
        HR = metrics.pixels(picture)
        try:
            for prefix, small in (("", LR), ("clean_", clean)):
                if small is not None:
                    row[f"{prefix}l2"] = l2 = metrics.consistency(HR, metrics.pixels(small))
                    row[f"{prefix}psnr"] = metrics.psnr(l2)
            if LR is not None:
                row["within_eps"] = row["l2"] <= result.eps
        except UserError as error:
            self.problems.add(f"not held against its LR, {error}", result.path.name)
        if true is not None and true.size == picture.size:
            true = metrics.pixels(true)
            row["hr_l2"] = metrics.mean_square(HR, true)
            row["hr_psnr"] = metrics.psnr(row["hr_l2"])
            row["ssim"], row["lpips"] = self.ssim(HR, true), self.lpips(HR, true)
        row["niqe"] = self.niqe(HR)
        self.rows.append(row)
