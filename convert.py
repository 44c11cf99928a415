"""Describe a weight file, or convert one of any known format to this project's own.

examples:
    python convert.py FILE -info
    python convert.py karras2019stylegan-ffhq-1024x1024.pkl -o ffhq.pt
"""

from __future__ import annotations

from pathlib import Path

from cli.command import OK, Parser, run_command
from cli.errors import UserError
from cli.progress import tell
from generators.formats import read_networks
from generators.load import DEMO, describe, largest_difference, save_generator
from generators.prior import cached_prior


def parser() -> Parser:
    flags = Parser(__doc__)
    flags.add_argument("file", metavar="FILE", help="a weight file of any known format")
    flags.flag("o", "write it to this file, in this project's format", metavar="OUT", type=Path)
    flags.flag("info", "describe the file only", False, action="store_true")
    flags.flag("cache_dir", "where prior fits are kept", "cache", type=Path)
    flags.flag("overwrite", "write over OUT if it exists", False, action="store_true")
    return flags


def main() -> int:
    args = parser().parse_args()
    if args.o is None and not args.info:
        raise UserError("nothing to do: give -o OUT to convert the file, or -info to describe it")
    if args.o is not None and args.o.exists() and not args.overwrite:
        raise UserError(f"{args.o} exists: give another name, or -overwrite")
    try:
        networks = read_networks(DEMO if args.file == "demo" else Path(args.file))
    except UserError as error:
        raise UserError(str(error)) from None
    tell(*describe(networks))
    if args.o is None or args.info:
        return OK
    if networks.prior is None and networks.mapping is None:
        raise UserError(f"{args.file} has no mapping network: put its mapping.pt beside it")
    networks.synthesis.requires_grad_(False)
    print("largest difference to an independent formulation, 10 latents: ", end="", flush=True)
    print(f"{largest_difference(networks):.1e} of the largest value")
    try:
        save_generator(
            networks, networks.prior or cached_prior(networks.mapping, args.cache_dir), args.o
        )
    except OSError as error:
        raise UserError(f"{args.o} cannot be written ({error.strerror})") from None
    tell(f"written: {args.o} (use it with: python run.py -generator {args.o})")
    return OK


if __name__ == "__main__":
    run_command(main)
