"""`run.py -render`: pictures are drawn again from their latent files, nothing is searched for."""

from __future__ import annotations

import os

import torch

from cli.command import OK, SOME_REFUSED
from cli.errors import UserError
from cli.progress import Progress, count, tell
from generators.latents import read_latent
from generators.load import ADDRESS
from PULSE import PULSE
from runner.jobs import Job, write_picture
from runner.options import RunOptions
from runner.records import Record
from safe_files import require_folder_writable


def render_files(options: RunOptions) -> int:
    """`run.py -render FILE…`: each picture again, below -output_dir where its search put it, and
    the reason where it cannot be. Returns the exit status.

    Raises: UserError.
    """
    require_folder_writable(options.output_dir, "-output_dir")
    progress = Progress(len(options.render), quiet=options.quiet)
    models, made, generator = {}, {}, options.generator  # a model per precision and label
    for file in options.render:
        try:
            record = Record.from_dict(read_latent(file)[1])
            job = Job(file, 0, file.stem, options.output_dir)
            place = job.place(record.within_eps)
            if place in made:
                raise UserError(f"{made[place]} has the same name: rename one of them")
            if os.path.lexists(place) and not options.overwrite:
                raise UserError(f"{place} is there: give another -output_dir, or -overwrite")
            name = generator or record.generator["name"]
            if generator is None and ADDRESS.match(name):  # a stranger's file asks nobody unasked
                raise UserError(f"its generator is at {name}: -generator {name} fetches it")
            precision = options.precision or record.settings.get("precision")
            label = record.generator.get("label") if options.label is None else options.label
            if (precision, label) not in models:
                models[precision, label] = PULSE(
                    name,
                    options.device,
                    options.cache_dir,
                    options.compile,
                    precision,
                    not options.quiet,
                    label,
                )
            generator = name
            # The number of threads decides over the last bits.
            torch.set_num_threads(options.threads or record.threads)
            write_picture(job, models[precision, label].render(file)[0], record)
        except UserError as error:
            progress.error(f"refused: {file}: {'; '.join(error.lines)}")
        except OSError as error:
            raise UserError(f"{place} cannot be written ({error.strerror})") from None
        else:
            made[place] = file
            progress.say(f"{file}: {place}")
        progress.advance()
    progress.close()
    tell(
        f"{count(len(made), 'picture')} drawn again in {options.output_dir}; "
        f"{count(len(options.render) - len(made), 'file')} refused"
    )
    return OK if len(made) == len(options.render) else SOME_REFUSED
