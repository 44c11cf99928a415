"""lernapparat's `.for_g_all.pt`: NVIDIA's FFHQ networks, in one state dict."""

from __future__ import annotations

from generators.networks import Networks, build_networks, renamed, tensors

# Its names, and PULSE's.
NAMES = (
    (r"g_mapping\.(.+)", r"\1"),
    (r"g_synthesis\.(.+\.epi\d)\.top_epi\.(.+)", r"\1.\2"),
    (r"g_synthesis\.(.+)", r"\1"),
)


def recognises(content: dict) -> bool:
    return any(key.startswith("g_synthesis.") for key in content)


def read(content: dict) -> Networks:
    """Raises: UserError, worded to follow the name of the file."""
    return build_networks(renamed(tensors(content), NAMES))
