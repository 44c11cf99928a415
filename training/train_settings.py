"""How a generator is trained: every setting, its default, and when to change it."""

from __future__ import annotations

from dataclasses import dataclass, field

from cli.errors import UserError
from training.search_loss import GROUPS


def _setting(default, help: str):
    return field(default=default, metadata={"help": help})


# when going on
MAY_CHANGE = (
    *("learning_rate", "projected_learning_rate", "ema_images"),
    *("search_weight", "search_side", "r1_weight", "projected_weight"),
)


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
        for name in (
            "fmap_base",
            "fmap_max",
            "dlatent_size",
            "mapping_layers",
            "critic_max",
            "r1_every",
            "ada_images",
            "ema_images",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.fmap_base < size // 2:
            raise UserError(f"fmap_base must be at least {size // 2}, not {self.fmap_base}")
        if self.critic_base < size // 2:
            raise UserError(f"critic_base must be at least {size // 2}, not {self.critic_base}")
        if self.batch_size < 1 or self.batch_size % (2 * GROUPS):
            raise UserError(f"batch_size must be a multiple of {2 * GROUPS}, not {self.batch_size}")
