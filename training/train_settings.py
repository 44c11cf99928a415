"""How a generator is trained: every setting, its default, and when to change it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from cli.errors import UserError
from search_settings import require_seed
from training.inputs import require_at_least
from training.search_loss import GROUPS


def _setting(default, help: str):
    return field(default=default, metadata={"help": help})


# when going on
MAY_CHANGE = {
    *("learning_rate", "projected_learning_rate", "ema_images"),
    *("search_weight", "search_side", "r1_weight", "projected_weight"),
}


def require_channels(
    resolution: int, fmap_base: int, fmap_max: int, critic_base: int, critic_max: int
) -> None:
    """Raises: UserError where a block of the generator or of the critic would have no channels."""
    require_at_least("fmap_base", fmap_base, resolution // 2)
    require_at_least("fmap_max", fmap_max, 1)
    require_at_least("critic_base", critic_base, resolution // 2)
    require_at_least("critic_max", critic_max, 1)


@dataclass(frozen=True)
class TrainSettings:
    """What a checkpoint is bound to: one with other settings, but for MAY_CHANGE, is not gone on
    from.
    """

    resolution: int = _setting(64, "pixels a side; 128 takes four times the time an image")
    fmap_base: int = _setting(1024, "channels at 2^k pixels are fmap_base / 2^(k - 1)")
    fmap_max: int = _setting(128, "and at most so many")
    dlatent_size: int = _setting(512, "width of a latent")
    mapping_layers: int = _setting(4, "of the mapping network; 8 learn too slowly on a CPU")
    critic_base: int = _setting(2048, "channels of the discriminator at r pixels: critic_base / r")
    critic_max: int = _setting(128, "and at most so many")
    batch_size: int = _setting(32, "pictures in a batch")
    learning_rate: float = _setting(2.5e-3, "of Adam, betas (0, 0.99); lower it towards the end")
    projected_weight: float = _setting(
        0.0,
        "pull of the discriminators of EfficientNet-lite0's features, relative to that of the "
        "discriminator of pixels; 0: without them",
    )
    projected_learning_rate: float = _setting(2e-4, "of Adam for the former")
    r1_weight: float = _setting(1.0, "of half the squared gradient of D on real pictures")
    r1_every: int = _setting(16, "batches between which R1 is applied, so many times stronger")
    ada_target: float = _setting(
        0.6, "mean sign of D on real pictures at which augmentation stays as it is (Karras 2020)"
    )
    ada_images: int = _setting(100_000, "in which its probability goes from 0 to 1 at the fastest")
    mixing: float = _setting(0.9, "share of samples of which some layers have another w")
    search_weight: float = _setting(
        200.0, "of the L2 that searches for real faces are left with; 0: a plain GAN"
    )
    search_side: int = _setting(
        16, "pixels of these faces; 32 where align_face.py's own size is to be reached as well"
    )
    ema_images: int = _setting(10_000, "half-life, in images, of the average over the weights")
    seed: int = _setting(0, "of everything random")

    def check(self) -> None:
        """Raises: UserError, one sentence, for a value that nothing can be trained with."""
        size, side = self.resolution, self.search_side
        if size < 32 or size & (size - 1):
            raise UserError(f"resolution must be a power of two from 32 on, not {size}")
        if side < 1 or size % side or side == size:
            raise UserError(f"search_side must divide {size}, and be less, not {side}")
        require_channels(size, self.fmap_base, self.fmap_max, self.critic_base, self.critic_max)
        for name in ("dlatent_size", "mapping_layers", "r1_every", "ada_images", "ema_images"):
            require_at_least(name, getattr(self, name), 1)
        for name, value in asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"-{name} must be a finite number, not {value}")
            if name.endswith(("_rate", "_weight")):
                require_at_least(name, value, 0)
        if not 0 <= self.mixing <= 1:
            raise UserError(f"-mixing must be from 0 to 1, not {self.mixing}")
        require_seed(self.seed)
        if self.batch_size < 1 or self.batch_size % (2 * GROUPS):
            raise UserError(f"batch_size must be a multiple of {2 * GROUPS}, not {self.batch_size}")
