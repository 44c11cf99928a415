"""faces.csv, beside the faces of align_face.py: how sure the detector was of each.

records = FaceRecords(Path("input"))
records.add(photograph.write_faces(finder))
records.tidy()
"""

from __future__ import annotations

import csv
import io
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cli.errors import UserError
from cli.progress import count
from cli.spreadsheet import spreadsheet_cell, text_of_cell
from imaging.pictures import FACES_CSV
from imaging.provenance import storable
from safe_files import atomic_write


@dataclass(frozen=True)
class FaceRecord:
    """What is known of a face beside its picture."""

    file: str  # of the face
    photograph: str
    face: int  # from 0, left to right
    score: float | None = None  # the detector's: above 0, the surer the higher; None without it
    width: float | None = None  # of the detector's square, in pixels of the photograph
    turned: int = 0  # degrees clockwise that stood the photograph upright
    found: int = 0  # faces in the photograph, chosen or not

    def detail(self) -> str:
        """`score 1.16, 91 pixels wide`, and the turn if there was one."""
        turned = f", turned by {self.turned} degrees" * bool(self.turned)
        return f"score {self.score:.2f}, {self.width:.0f} pixels wide{turned}"


def summary(records: list[FaceRecord]) -> str:
    """What a photograph gave, as a line."""
    details = [f"{each.face}: {each.detail()}" for each in records[:10]]
    more = [f"and {len(records) - 10} more"] * (len(records) > 10)
    of = f" of {records[0].found}" * (len(records) < records[0].found)
    return f"{count(len(records), 'face')}{of}; {'; '.join(details + more)}"


class FaceRecords:
    """The table in a folder of faces, a line each. Lines are added as faces are written, so that a
    run which is stopped leaves them; of a face that is made again the last line counts.

    Raises: UserError where the folder holds another file of that name.
    """

    COLUMNS = tuple(field.name for field in fields(FaceRecord))

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / FACES_CSV
        if os.path.lexists(self.path) and self._rows() is None:
            raise UserError(
                f"{self.path} is there and is not align_face.py's: move it, or give another "
                f"-output_dir"
            )

    def add(self, records: list[FaceRecord]) -> None:
        """Append lines. Raises: UserError where the file cannot be written."""
        rows = [[spreadsheet_cell(value) for value in asdict(each).values()] for each in records]
        try:
            with open(self.path, "a+b") as file:
                if not file.tell():
                    rows = [self.COLUMNS, *rows]
                elif file.seek(-1, os.SEEK_END) >= 0 and file.read() != b"\n":  # a killed run's
                    file.write(b"\n")
                file.write(_encoded(rows, file.tell()))
        except OSError as error:
            raise UserError(
                f"its lines in {self.path} cannot be written ({error.strerror}): see to it and run "
                f"this again with -overwrite"
            ) from None

    def tidy(self) -> None:
        """Only the last line of each face remains, and of faces that exist; all, where the file
        cannot be written.
        """
        rows = self._rows()
        if not rows:
            return
        existing = {storable(name) for name in os.listdir(self.folder)}
        last = {text_of_cell(row[0]): row for row in rows}
        kept = [row for name, row in last.items() if name in existing]
        content = _encoded([self.COLUMNS, *kept], 0)
        with suppress(OSError):
            if self.path.read_bytes() != content:
                with atomic_write(self.path) as file:
                    file.write(content)

    def _rows(self) -> list[list[str]] | None:
        """The lines that are there; None where the file is not one of these."""
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as file:
                header, *rows = list(csv.reader(file)) or [[]]
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError, csv.Error):
            return None
        if tuple(header) != self.COLUMNS:
            return None
        return [row for row in rows if len(row) == len(self.COLUMNS)]  # a killed run may cut one


def _encoded(rows: list, position: int) -> bytes:
    """As a table program reads them: a mark of UTF-8 where the file begins."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    encoding = "utf-8" if position else "utf-8-sig"
    return text.getvalue().encode(encoding, "backslashreplace")
