"""Results measured one input at a time, so that memory stays as it is.

    problems = Problems()
    by_input = read_results(Path("runs"), problems)
    evaluation = Evaluation(problems, lr=PictureFolder(Path("input"), "-input_dir"))
    for results in by_input.values():
        evaluation.measure(results)

`evaluation.rows` then has the figures of every result, and of the nearest and bicubic enlargement
of its LR. What cannot be measured is a problem, one sentence, and the rest is measured all the
same. Nothing is written.
"""

from __future__ import annotations

from PIL import Image

from cli.errors import UserError
from evaluation import metrics
from evaluation.results import FROM_RECORD, PictureFolder, Problems, Result
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
)


class Evaluation:
    """The figures of results, input by input: call `measure` with the results of each.

    lr, hr, clean: where the LR inputs, the true HR and the undegraded LR are; None where they are
    not to be had. groups: input's file name → group.
    """

    def __init__(
        self,
        problems: Problems,
        lr: PictureFolder | None = None,
        hr: PictureFolder | None = None,
        clean: PictureFolder | None = None,
        groups: dict[str, str] | None = None,
    ):
        self.problems, self.lr, self.hr, self.clean = problems, lr, hr, clean
        self.groups = groups or {}
        self.ssim, self.lpips, self.niqe = metrics.ssim(), metrics.lpips(), metrics.niqe()
        self.rows: list[dict] = []  # the keys are of COLUMNS; what was not measured is missing
        self.diversity: list[dict] = []  # input, results, rmse, lpips: of inputs with duplicates

    def measure(self, results: list[Result]) -> None:
        """All results of one input, and the enlargements of its LR."""
        pictures: list[tuple[Result, Image.Image]] = []
        for result in results:
            try:
                pictures.append((result, read_picture(result.place)))
            except UserError as error:
                self.problems.add(f"left out, {error}", result.place.name)
        if not pictures:
            return
        size = pictures[0][1].size
        first = pictures[0][0]
        LR = self.read_lr(first)
        clean = self._read(self.clean, first.input, LR.size if LR else None)
        true = self._read(self.hr, first.input, size)
        for result, picture in pictures:
            row = {
                "method": "PULSE",
                "name": result.place.stem,
                "record_l2": result.l2,
                "record_within_eps": result.within_eps,
                "steps": result.steps,
                **{key: getattr(result, key) for key in FROM_RECORD},
            }
            self._keep(row, result, picture, LR, clean, true)
        if LR is not None:
            for method, resample in (("nearest", Image.NEAREST), ("bicubic", Image.BICUBIC)):
                enlarged = LR.resize(size, resample)
                self._keep({"method": method}, first, enlarged, LR, clean, true)
        if true is not None:
            self._keep({"method": "true HR"}, first, true, LR, clean, None)
        if len({picture.size for _, picture in pictures}) == 1 < len(pictures):
            alone = [picture for _, picture in pictures]
            self.diversity.append(
                {
                    "input": first.input,
                    "results": len(alone),
                    "rmse": metrics.mean_over_pairs(alone, metrics.rmse),
                    "lpips": metrics.mean_over_pairs(alone, self.lpips),
                }
            )

    def read_lr(self, result: Result) -> Image.Image | None:
        """The input of a result; None, and a problem, where it is missing or another picture."""
        LR = self._read(self.lr, result.input, None)
        if LR is not None and pixels_sha256(LR) != result.pixels:
            self.problems.add(f"{self.lr.told}: {CHANGED}", result.input)
            return None
        return LR

    def borrowed(self) -> list[str]:
        """What made SSIM, LPIPS and NIQE, and why some of it is missing: sentences."""
        measures = (self.ssim, self.lpips, self.niqe)
        made_by = [f"{each.title}: {each.made_by}." for each in measures if each.made_by]
        return made_by + [each.left_out for each in measures if each.left_out]

    def _read(self, folder: PictureFolder | None, name: str, size) -> Image.Image | None:
        if folder is None:
            return None
        try:
            picture = folder.read(name)
            if size is not None and picture.size != size:
                here, there = (f"{width}×{height}" for width, height in (picture.size, size))
                raise UserError(f"it is {here}, and must be {there}: align_face.py -output_size")
        except UserError as error:
            self.problems.add(f"{folder.told}: {error}", name)
            return None
        return picture

    def _keep(self, row: dict, result: Result, picture, LR, clean, true) -> None:
        """Add the figures of `picture`, and the row to the others."""
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
        except ValueError as error:
            self.problems.add(f"not held against its LR, {error}", result.place.name)
        if true is not None and true.size == picture.size:
            true = metrics.pixels(true)
            row["hr_l2"] = metrics.mean_square(HR, true)
            row["hr_psnr"] = metrics.psnr(row["hr_l2"])
            row["ssim"], row["lpips"] = self.ssim(HR, true), self.lpips(HR, true)
        row["niqe"] = self.niqe(HR)
        self.rows.append(row)
