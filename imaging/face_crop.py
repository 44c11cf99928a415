"""A photograph becomes upright squares: FFHQ's crop around every face, or the central square.

    finder = FaceFinder(Path("cache"))
    crops = [align(photo, face.landmarks) for face in finder.find(photo)]  # 1024x1024 each
    LR = downscale(crops[0], 32)

Photographs are Pillow pictures, RGB, as read_picture returns them.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from cli.errors import UserError
from drive import RemoteFile, Source, open_url
from imaging.pictures import to_picture, to_tensor
from safe_files import sha256

CROP = 1024  # pixels of the FFHQ crop
TRANSFORMED = 4096  # pixels it is sampled at before it is reduced to CROP
DETECT_PIXELS = 16_000_000  # the detector takes about 45 bytes a pixel, 700 MB for this many

LANDMARKS = RemoteFile(
    name="shape_predictor_68_face_landmarks.dat",
    sources=(
        Source(
            "https://dlib.net/files/shape_predictor_68_face_landmarks.dat.bz2",
            bz2=True,
            size=64_040_097,
            sha256="7d6637b8f34ddb0c1363e09a4628acb34314019ec3566fd66b80c04dda6980f5",
        ),
        Source("drive:1huhv8PYpNNKbGCLOaYUjOgR1pY5pmbJx"),
    ),
    size=99_693_937,
    sha256="fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
    old_prefix="b3e61b9e2b05a24cd93cf529b98917c7_",
)


def ffhq_quad(landmarks: np.ndarray) -> np.ndarray:
    """The square around a face that FFHQ cuts out, from eyes and mouth.

    landmarks: (68, 2), x and y in pixels. Returns (4, 2): the upper left, lower left, lower right
    and upper right corner as the upright face has them.
    """
    landmarks = np.asarray(landmarks, dtype=np.float64)
    left_eye, right_eye = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    mouth = (landmarks[48] + landmarks[54]) / 2
    eyes = (left_eye + right_eye) / 2
    to_eye, to_mouth = right_eye - left_eye, mouth - eyes
    x = to_eye - np.array([-to_mouth[1], to_mouth[0]])
    x *= max(2 * np.hypot(*to_eye), 1.8 * np.hypot(*to_mouth)) / np.hypot(*x)
    y = np.array([-x[1], x[0]])
    centre = eyes + 0.1 * to_mouth
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def align(photo: Image.Image, landmarks: np.ndarray) -> Image.Image:
    """The FFHQ crop of the face with these landmarks (68, 2): 1024x1024, RGB.

    What lies beyond the photograph's edges is its reflection, fading into its median colour.
    """
    quad = ffhq_quad(landmarks)
    qsize = np.hypot(*(quad[3] - quad[0]))

    shrink = math.floor(qsize / CROP * 0.5)
    if shrink > 1:  # far larger than the crop: full resolution would cost much and change nothing
        size = np.rint(np.array(photo.size) / shrink).astype(int)
        photo = photo.resize(tuple(size.tolist()), Image.Resampling.LANCZOS)
        quad, qsize = quad / shrink, qsize / shrink

    border = max(round(qsize * 0.1), 3)
    low, high = _box(quad)
    corner = np.maximum(low - border, 0)
    opposite = np.minimum(high + border, photo.size)
    photo = photo.crop((*corner.tolist(), *opposite.tolist()))
    quad = quad - corner

    low, high = _box(quad)
    before = np.maximum(border - low, 0)  # left, top
    after = np.maximum(high - photo.size + border, 0)  # right, bottom
    if max(*before, *after) > border - 4:
        least = round(qsize * 0.3)
        before, after = np.maximum(before, least), np.maximum(after, least)
        photo = _padded(photo, before.tolist(), after.tolist(), 0.02 * qsize)
        quad = quad + before

    sampled = photo.transform(
        (TRANSFORMED, TRANSFORMED),
        Image.Transform.QUAD,
        (quad + 0.5).flatten().tolist(),
        Image.Resampling.BILINEAR,
    )
    return sampled.resize((CROP, CROP), Image.Resampling.LANCZOS)


def _box(quad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.floor(quad.min(0)).astype(int), np.ceil(quad.max(0)).astype(int)


def _padded(photo: Image.Image, before: list[int], after: list[int], sigma: float) -> Image.Image:
    """`photo`, reflected beyond its edges by before (left, top) and after (right, bottom) pixels.
    Towards the new edges it fades into its own blur, then into the median colour.
    """
    (left, top), (right, bottom) = before, after
    pixels = np.pad(np.asarray(photo), ((top, bottom), (left, right), (0, 0)), "reflect")
    h, w = pixels.shape[:2]
    x, y = np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32)[:, None]
    fade = np.maximum(
        1 - np.minimum(x / left, (w - 1 - x) / right),
        1 - np.minimum(y / top, (h - 1 - y) / bottom),
    )  # (h, w): 1 at the edges of the padding, 0 or less within the photograph
    for c in range(3):  # one colour at a time, in a third of the memory
        colour = pixels[..., c].astype(np.float32)
        colour += (_blurred(colour, sigma) - colour) * np.clip(3 * fade + 1, 0, 1)
        colour += (np.median(colour) - colour) * np.clip(fade, 0, 1)
        pixels[..., c] = np.clip(np.rint(colour), 0, 255)
    return Image.fromarray(pixels)


def _blurred(plane: np.ndarray, sigma: float) -> np.ndarray:
    """(h, w) float32, blurred by a Gaussian; edges are mirrored, edge pixels repeated.

    A wide blur is computed on a reduced plane, without a visible difference: at full size it takes
    a minute where a face fills a photograph of many million pixels.
    """
    h, w = plane.shape
    reduction = max(int(sigma / 8), 1)
    if reduction == 1:
        return gaussian_filter(plane, sigma)
    small = np.asarray(Image.fromarray(plane).reduce(reduction))
    blurred = Image.fromarray(gaussian_filter(small, sigma / reduction))
    box = (0, 0, w / reduction, h / reduction)  # the last block may reach beyond the plane
    return np.asarray(blurred.resize((w, h), Image.Resampling.BILINEAR, box))


def downscale(square: Image.Image, output_size: int) -> Image.Image:
    """DS, the downscaling of the search, rounded to 8 bits, overshoot clamped.

    output_size: pixels a side, a divisor of the side of `square`.
    """
    from bicubic import BicubicDownSample  # late: torch takes seconds to import

    return to_picture(BicubicDownSample(square.width // output_size)(to_tensor(square)[None])[0])


def central_square(photo: Image.Image, output_size: int) -> Image.Image:
    """The largest central square, its side reduced (Lanczos) to a multiple of output_size; with 0
    not reduced. Raises: UserError where it is too small to be downscaled.
    """
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side))
    if output_size in (0, side):
        return square
    if side < 2 * output_size:
        raise UserError(
            f"its central square has {side} pixels a side, too few for -output_size {output_size}: "
            f"give a smaller one, or a picture of at least {2 * output_size} pixels"
        )
    side -= side % output_size
    return square.resize((side, side), Image.Resampling.LANCZOS)


def enlarged(photo: Image.Image, factor: float) -> Image.Image:
    """`photo` resized (bicubic) by `factor`. Raises: UserError beyond Pillow's limit of pixels."""
    if factor == 1:
        return photo
    size = [max(round(edge * factor), 1) for edge in photo.size]
    if Image.MAX_IMAGE_PIXELS and size[0] * size[1] > Image.MAX_IMAGE_PIXELS:
        raise UserError(
            f"-upscale {factor:g} makes it {size[0]}x{size[1]} pixels, beyond the limit of "
            f"{Image.MAX_IMAGE_PIXELS / 1e6:.0f} million: give a smaller factor"
        )
    return photo.resize(size, Image.Resampling.BICUBIC)


def installed_landmark_model() -> Path | None:
    """dlib's 68 landmarks in the package face_recognition_models; None where it has none."""
    # The package is not imported: that fails with recent setuptools.
    package = importlib.util.find_spec("face_recognition_models")
    for folder in (package and package.submodule_search_locations) or []:
        file = Path(folder) / "models" / LANDMARKS.name
        if file.is_file() and sha256(file) == LANDMARKS.sha256:
            return file
    return None


def landmark_model(cache_dir: Path, progress: bool = True) -> Path:
    """dlib's 68 landmarks: installed, in the cache, or downloaded into it.

    progress: show a download on stderr. Raises: UserError.
    """
    return installed_landmark_model() or open_url(LANDMARKS, cache_dir, progress=progress)


@dataclass(frozen=True, eq=False)
class Face:
    """A face that the detector found."""

    landmarks: np.ndarray  # (68, 2), x and y in pixels of the photograph
    score: float  # the detector's: above 0, the surer the higher; clear faces have 1 to 3
    width: float  # of the detector's square, brow to chin, in pixels of the photograph


class FaceFinder:
    """dlib's frontal face detector and its landmarks.

    progress: show a download on stderr. Raises: UserError where dlib is not installed or its model
    neither found nor downloaded.
    """

    def __init__(self, cache_dir: Path, progress: bool = True):
        try:
            import dlib
        except ImportError as error:
            raise UserError(
                f"dlib, which finds faces, cannot be imported ({error}): `pip install dlib-bin` "
                f"installs it, -mode resize does without"
            ) from None
        try:
            model = landmark_model(cache_dir, progress)
        except UserError as error:
            first, *sources = error.lines
            raise UserError(f"the landmark model cannot be had: {first}", *sources) from None
        self.rectangle = dlib.rectangle
        self.detector = dlib.get_frontal_face_detector()
        self.predict = dlib.shape_predictor(str(model))

    def find(self, photo: Image.Image) -> list[Face]:
        """Every face in `photo` (RGB), left to right. Raises: RuntimeError where dlib fails."""
        scale = max(math.sqrt(photo.width * photo.height / DETECT_PIXELS), 1)
        searched = photo
        if scale > 1:
            searched = photo.resize((int(photo.width / scale), int(photo.height / scale)))
        # The detector enlarges it once: it then finds faces of 40 pixels and more.
        boxes, scores, _ = self.detector.run(np.asarray(searched), 1)
        pixels, faces = np.asarray(photo), []
        for box, score in sorted(zip(boxes, scores, strict=True), key=lambda pair: place(pair[0])):
            edges = box.left(), box.top(), box.right(), box.bottom()
            scaled = self.rectangle(*(round(scale * edge) for edge in edges))
            points = self.predict(pixels, scaled).parts()
            landmarks = np.array([(point.x, point.y) for point in points], dtype=np.float64)
            faces.append(Face(landmarks, score, scale * box.width()))
        return faces


def place(box) -> tuple[int, ...]:
    """From left to right, of dlib's rectangles."""
    return box.left() + box.right(), box.top(), box.bottom(), box.left()
