"""A generator's name becomes a PULSE, or one sentence that says why not: for every command that
searches or renders.
"""

from __future__ import annotations

from pathlib import Path

from cli.command import Unusable, shown
from generators.load import GeneratorError
from PULSE import PULSE


def load_model(
    generator: str,
    device: str,
    cache_dir: Path,
    compile: str,
    precision: str | None,
    progress: bool = True,
) -> PULSE:
    """A PULSE. Raises: Unusable where the generator or the device cannot be had."""
    try:
        return PULSE(generator, device, cache_dir, compile, precision, progress)
    except (GeneratorError, ValueError) as error:
        lines = map(shown, str(error).splitlines())  # a download tells each source in its own
        raise Unusable("\n".join(lines)) from None
    except OSError as error:  # of the prior fit that is kept there
        raise Unusable(
            f"-cache_dir {shown(cache_dir)} cannot be written ({error.strerror}): give another "
            f"folder"
        ) from None
