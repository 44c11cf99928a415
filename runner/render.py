"""`run.py -render`: pictures are drawn again from their latent files, nothing is searched for."""

from __future__ import annotations

import os

import torch

from cli.command import OK, SOME_REFUSED
from cli.errors import UserError
from cli.progress import Progress, count, tell
from generators.latents import read_latent
from PULSE import PULSE
from runner.records import Job, write_picture
from safe_files import require_folder_writable


def render_files(args) -> int:
    """`run.py -render FILE…`: each picture again, below -output_dir where its search put it, and
    the reason where it cannot be. Returns the exit status.

    Raises: UserError.
    """
    require_folder_writable(args.output_dir, "-output_dir")
    progress = Progress(len(args.render), quiet=args.quiet)
    models, made, generator = {}, {}, args.generator  # a model per precision
    for file in args.render:
        try:
            _, record = read_latent(file)
            job = Job(file, 0, file.stem, args.output_dir)
            place = job.place(record["within_eps"])
            if place in made:
                raise UserError(f"{made[place]} has the same name: rename one of them")
            if os.path.lexists(place) and not args.overwrite:
                raise UserError(f"{place} is there: give another -output_dir, or -overwrite")
            generator = generator or record["generator"]["name"]
            precision = args.precision or record["settings"].get("precision")
            if precision not in models:
                models[precision] = PULSE(
                    generator,
                    args.device,
                    args.cache_dir,
                    args.compile,
                    precision,
                    not args.quiet,
                )
            # The number of threads decides over the last bits.
            torch.set_num_threads(args.threads or record["threads"])
            write_picture(job, models[precision].render(file)[0], record)
        except UserError as error:
            progress.error(f"refused: {file}: {str(error)}")
        except OSError as error:
            raise UserError(f"{place} cannot be written ({error.strerror})") from None
        else:
            made[place] = file
            progress.say(f"{file}: {place}")
        progress.advance()
    progress.close()
    tell(
        f"{count(len(made), 'picture')} drawn again in {args.output_dir}; "
        f"{count(len(args.render) - len(made), 'file')} refused"
    )
    return OK if len(made) == len(args.render) else SOME_REFUSED
