"""Which knob of the search matters, and how robust is it? Run every setting, measure, draw.

examples:
  python align_face.py -mode resize -input_dir photographs -output_dir lr16 -output_size 16
  python experiments.py -input_dir lr16 -generator demo -output_dir experiments
      the defaults, then each knob changed alone, on the same LR pictures with the same seed
  python experiments.py -input_dir lr16 -hr_dir photographs -generator demo -output_dir experiments
      and the paper's robustness experiment, from the photographs that the LR were made of
  python experiments.py -input_dir lr16 -generator demo -only defaults steps-200 steps-400
      some of it: the names are those of the folders

results: experiments.md (tables), experiments.json (all figures) and plots in <output_dir>, and a
folder with the pictures of each experiment, with its log. Stopped? The same command goes on. The
figures are those of evaluate.py, for the pictures that are in -input_dir now.

exit status: 0 everything was measured; 1 some experiment failed or lacks pictures, the others are
measured; 2 arguments, folders or generator cannot be used, and nothing was begun.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from cli.command import OK, SOME_REFUSED, Parser, run_command
from cli.errors import UserError
from cli.guest import as_found
from cli.progress import tell
from evaluation.options import StudyOptions


def parser() -> Parser:
    """The flags: StudyOptions says their defaults and meanings."""
    flags = Parser(__doc__)
    flags.flags_of(StudyOptions)
    return flags


def main() -> int:
    options = StudyOptions(**vars(parser().parse_args()))
    options.check()

    import torch  # this and what follows takes seconds, and -h must not wait for it

    from evaluation.ablation import side_of
    from evaluation.results import PictureFolder
    from evaluation.study import Study, check_folders, choose, write_study

    check_folders(options)
    lr = PictureFolder(options.input_dir, "-input_dir")
    side = side_of(lr)
    options, chosen = choose(options)
    study = Study(options, chosen, lr)
    try:
        with as_found():
            torch.set_num_threads(1)  # the searches need the cores
            rows = study.run(side)
        if not rows:
            tell("experiments.py: error: no experiment has a result", file=sys.stderr)
            return SOME_REFUSED
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        files = write_study(options, rows, side, command)
    except OSError as error:
        name = error.filename or options.output_dir
        raise UserError(f"{name} cannot be written ({error.strerror}): make room there") from None
    if not options.quiet:
        tell(f"Written: {', '.join(map(str, files))}")
    return SOME_REFUSED if study.failures else OK


if __name__ == "__main__":
    run_command(main, resumes=True)
