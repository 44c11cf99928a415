"""Describe a weight file, or convert one of any known format to this project's own.

examples:
    python convert.py FILE -info
    python convert.py karras2019stylegan-ffhq-1024x1024.pkl -o ffhq.pt
"""

from __future__ import annotations

import os
from pathlib import Path

from cli.command import OK, Parser, run_command
from cli.errors import UserError
from cli.progress import tell


def parser() -> Parser:
    flags = Parser(__doc__)
    flags.add_argument("file", metavar="FILE", help="a weight file of any known format")
    flags.flag("o", "write it to this file, in this project's format", metavar="OUT", type=Path)
    flags.flag("info", "describe the file only", False, action="store_true")
    flags.flag("label", "of a file of several classes: write or describe this one", type=int)
    flags.flag("cache_dir", "where prior fits are kept", "cache", type=Path)
    flags.flag("overwrite", "write over OUT if it exists", False, action="store_true")
    return flags


def main() -> int:
    args = parser().parse_args()
    if args.o is None and not args.info:
        raise UserError("nothing to do: give -o OUT to convert the file, or -info to describe it")
    if args.o is not None and args.info:
        raise UserError("-info only describes the file: leave it out, or -o")
    if args.o is not None and os.path.lexists(args.o) and not args.overwrite:
        raise UserError(f"{args.o} exists: give another name, or -overwrite")
    # only now, so that -h does not wait for PyTorch
    from generators.formats import read_networks
    from generators.load import choose_label, describe, generator_of, save_generator, weight_file

    networks = read_networks(weight_file(args.file))
    if args.label is not None:
        choose_label(networks, args.file, args.label)
    tell(*describe(networks))
    if args.o is None:
        return OK
    generator = generator_of(networks, args.file, args.cache_dir, args.label)
    try:
        save_generator(networks, (generator.mean, generator.std), args.o)
    except OSError as error:
        raise UserError(f"{args.o} cannot be written ({error.strerror})") from None
    written = generator_of(read_networks(args.o), args.o, args.cache_dir)
    if written.sha256 != generator.sha256:
        raise UserError(f"{args.o}, read back, is not what {args.file} holds: convert it again")
    tell(
        f"read back: the same generator, SHA-256 {generator.sha256}",
        f"written: {args.o} (use it with: python run.py -generator {args.o})",
    )
    return OK


if __name__ == "__main__":
    run_command(main)
