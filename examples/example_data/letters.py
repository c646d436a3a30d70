"""Letters A to J drawn with matplotlib's fonts, which replace notMNIST if its files are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .dataset import DataError, Split

__all__ = ["LETTERS", "draw_letters"]

LETTERS = tuple("ABCDEFGHIJ")
SIDE = 28
FONTS = ("DejaVuSans*", "DejaVuSerif*", "STIXGeneral*", "cmb10*", "cmr10*", "cmss10*", "cmti10*", "cmtt10*")
NO_LETTERS = "Display"  # DejaVu's display fonts contain only a few characters
MASTER = 2 * SIDE  # each letter is drawn once at twice the size, then every image is a view of it
INK = 44  # the master's longer side: 22 of 28 pixels


def draw_letters(n: int, rng: np.random.Generator) -> Split:
    """Draw ``n`` letters A to J, white on black, in many fonts: rotated, slanted, scaled, shifted and noisy.

    Rotations have a standard deviation of 8 degrees, slants of 0.12. Scales are between 0.7 and 1.2, shifts up to 2
    pixels, brightness between 0.6 and 1, and the standard deviation of the noise between 0 and 40 of 255 gray
    levels. The same generator draws the same images with the same versions of matplotlib and Pillow.

    Returns
    -------
    ``x`` (n, 784) ``uint8`` and ``y`` (n,) ``int32`` 0 (A) to 9 (J), in equal shares and random order.

    Raises
    ------
    DataError
        matplotlib or Pillow is not installed.
    """
    masters = _masters()  # [font][letter]
    y = rng.permutation(np.arange(n, dtype=np.int32) % len(LETTERS))
    font = rng.integers(len(masters), size=n)
    x = np.empty((n, SIDE * SIDE), np.float32)
    for row, f, letter, view in zip(x, font.tolist(), y.tolist(), _views(n, rng), strict=True):
        row[:] = _look(masters[f][letter], view)
    x *= rng.uniform(0.6, 1.0, (n, 1)).astype(np.float32)
    noise = rng.standard_normal(x.shape, dtype=np.float32)
    noise *= rng.uniform(0.0, 40.0, (n, 1)).astype(np.float32)
    x += noise
    return Split(np.clip(x, 0, 255, out=x).astype(np.uint8), y)


def _views(n: int, rng: np.random.Generator) -> list[list[float]]:
    """For each image, the six numbers ``a b c d e f`` of the map from its pixels to the master's:
    ``(a u + b v + c, d u + e v + f)``.
    """
    turn, slant = np.deg2rad(8) * rng.standard_normal(n), 0.12 * rng.standard_normal(n)
    zoom = MASTER / SIDE / rng.uniform(0.7, 1.2, n)
    centre = SIDE / 2 + rng.uniform(-2, 2, (2, n))
    cos, sin = zoom * np.cos(turn), zoom * np.sin(turn)
    a, b, d, e = cos + slant * sin, slant * cos - sin, sin, cos  # slant applied to a rotation
    c = MASTER / 2 - a * centre[0] - b * centre[1]
    f = MASTER / 2 - d * centre[0] - e * centre[1]
    views: list[list[float]] = np.stack((a, b, c, d, e, f), axis=1).tolist()
    return views


def _look(master: Any, view: list[float]) -> npt.NDArray[np.uint8]:
    from PIL import Image

    image = master.transform((SIDE, SIDE), Image.Transform.AFFINE, view, Image.Resampling.BILINEAR)
    return np.frombuffer(image.tobytes(), np.uint8)


def _masters() -> list[list[Any]]:
    """A large image (the master) of each letter in each font."""
    return [[_draw(str(font), letter) for letter in LETTERS] for font in _fonts()]


def _draw(font: str, letter: str) -> Any:
    """Draw ``letter`` with a longer side of `INK` pixels in the middle of a black square of `MASTER` pixels."""
    from PIL import Image, ImageDraw, ImageFont

    def load(size: float) -> Any:
        return ImageFont.truetype(font, size, layout_engine=ImageFont.Layout.BASIC)

    left, top, right, bottom = load(100).getbbox(letter)
    fitted = load(100 * INK / max(right - left, bottom - top))
    left, top, right, bottom = fitted.getbbox(letter)
    image = Image.new("L", (MASTER, MASTER))
    corner = ((MASTER - left - right) / 2, (MASTER - top - bottom) / 2)
    ImageDraw.Draw(image).text(corner, letter, fill=255, font=fitted)
    return image


def _fonts() -> list[Path]:
    try:
        import PIL.Image  # noqa: F401  draws the letters
        from matplotlib import get_data_path
    except ImportError as error:
        raise DataError(f"the letters need matplotlib and Pillow ({error}): pip install 'mlp-xp[examples]'") from error
    folder = Path(get_data_path(), "fonts", "ttf")
    found = [font for pattern in FONTS for font in sorted(folder.glob(pattern)) if NO_LETTERS not in font.stem]
    if not found:
        raise DataError(
            f"matplotlib's fonts are not in {folder}: reinstall it with pip install --force-reinstall matplotlib"
        )
    return found
