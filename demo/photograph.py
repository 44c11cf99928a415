"""Write the demo's photograph: Eileen Collins, by NASA, public domain, from scikit-image.

example:
    python demo/photograph.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli.command import OK, Parser, run_command  # noqa: E402
from cli.errors import UserError  # noqa: E402
from cli.progress import tell  # noqa: E402

ROWS = 400  # without the badge on her suit, which the detector takes for a second face


def main() -> int:
    flags = Parser(__doc__)
    flags.add_argument("folder", metavar="FOLDER", type=Path, help="where it goes; made if missing")
    path = flags.parse_args().folder / "eileen_collins.png"

    import skimage.data
    from PIL import Image

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(skimage.data.astronaut()[:ROWS]).save(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): give another folder"
        ) from None
    tell(f"photograph: {path}")
    return OK


if __name__ == "__main__":
    run_command(main)
