"""Fonts for the text of pictures: Pillow's own has the letters of English alone.

For other letters the first font file that has them is taken: from the Python packages of the extra `fonts`,
then from the fonts of the machine, such as Debian's `fonts-noto-core` and `fonts-noto-cjk`. Right-to-left
scripts and those that join their letters need Pillow's Raqm, which its wheels contain; it loads the machine's
`libfribidi`.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from PIL import ImageFont

log = logging.getLogger(__name__)

Font = ImageFont.FreeTypeFont

PACKAGES = (
    "noto_cjk_sans_otc",
    *(f"justmytype_intl_{part}" for part in ("rtl", "south_asia", "sea", "africa")),
)
"""What the extra `fonts` installs: Latin, Greek, Cyrillic and East Asian letters; then the others."""
FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
_UPRIGHT = re.compile(r"(NotoSans\w*-Regular|Noto\w*Sans\w*\[[\w,]+\]|DejaVuSans|unifont\w*)\.(ttf|otf|ttc)")
_OWN = ""
"""Stands for Pillow's own font in place of a file."""
_NO_LETTER = "\U0010fffe"
"""Each font draws it as its sign for letters that it lacks."""
_PROBE_PIXELS = 16


class FontBook:
    """Splits text by the fonts that have its letters. `missing`: letters that no font has."""

    def __init__(self) -> None:
        self.missing: set[str] = set()

    def split(self, text: str, pixels: int) -> list[tuple[str, Font]]:
        """The text in parts of one font each, of this height; `?` for letters that no font has."""
        parts: list[tuple[str, str]] = []
        for letter in unicodedata.normalize("NFC", " ".join(text.split())):
            before, current = parts[-1] if parts else ("", _OWN)
            found = next((file for file in (current, *_font_files()) if _has_letter(file, letter)), None)
            if found is None:
                if unicodedata.category(letter) in ("Mn", "Cf"):  # an accent, or a sign without a shape
                    continue
                self.missing.add(letter)
                letter, found = "?", current
            if parts and found == current:
                parts[-1] = before + letter, current
            else:
                parts.append((letter, found))
        return [(part, _open_font(file, pixels)) for part, file in parts]

    def warn(self) -> None:
        """Log the letters that were replaced, if there are any."""
        if self.missing:
            log.warning(
                "No font has the letters %s: the picture shows '?' for them. Install the extra `fonts` on "
                "the workers, or fonts of the system, such as Debian's fonts-noto-core and fonts-noto-cjk.",
                " ".join(sorted(self.missing))[:100],
            )


@cache
def _font_files() -> tuple[str, ...]:
    """Pillow's own font, then files: those of packages first."""
    found = [_OWN]
    specs = [spec for name in PACKAGES if (spec := find_spec(name)) is not None]
    for folder in (
        *(Path(place) for spec in specs for place in spec.submodule_search_locations or ()),
        *FOLDERS,
    ):
        found += sorted(str(path) for path in folder.rglob("*") if _UPRIGHT.fullmatch(path.name))
    return tuple(found)


@cache
def _open_font(file: str, pixels: int) -> Font:
    if file == _OWN:
        return cast("Font", ImageFont.load_default(pixels))
    font = ImageFont.truetype(file, pixels)
    with suppress(OSError, ValueError):  # not every font has variations, nor this one
        font.set_variation_by_name("Regular")
    return font


@cache
def _has_letter(file: str, letter: str) -> bool:
    try:
        font = _open_font(file, _PROBE_PIXELS)
        return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask(_NO_LETTER))
    except OSError:  # the file is no font
        return False
