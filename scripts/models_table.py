"""Write docs/models.md from the catalogue: which model takes what, and what a second of it costs."""

from __future__ import annotations

from pathlib import Path

from magichour_provider.api.catalog import ranges
from magichour_provider.api.catalog_table import AUDIO_ALIASES, MODELS, Vintage

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
HEAD = """# Models

What the catalogue knows, by the newest documentation of each model; older versions of it are known too, and
a combination is refused only if none takes it. Credits are for one second of output; a dash means that no
rate is published, so that `max_credits` cannot be kept. `make models` writes this page.

| model | seconds | resolutions | credits a second | audio | end image |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = [_row(model, vintages[-1]) for model, vintages in MODELS.items()]
    rows += [f"| `{name}` | as `{base}`, with audio | | | | |" for name, base in AUDIO_ALIASES.items()]
    rows.append("| `default`, or none | 1-60 | Magic Hour's choice, by the account's tier | - | | |")
    return HEAD + "\n".join(rows) + "\n"


def _row(model: str, vintage: Vintage) -> str:
    rates = [_rate(vintage, resolution) for resolution in vintage.resolutions]
    end = vintage.end_image
    limit = f", up to {end.max_seconds} s" if end and end.max_seconds < max(vintage.durations) else ""
    cells = [
        f"`{model}`",
        ranges(vintage.durations),
        ", ".join(vintage.resolutions),
        " / ".join(rates),
        vintage.audio.value,
        f"{', '.join(end.resolutions)}{limit}" if end else "no",
    ]
    return f"| {' | '.join(cells)} |"


def _rate(vintage: Vintage, resolution: str) -> str:
    rate = vintage.rates.get(resolution)
    if rate is None or rate.video is None:
        return "-"
    return f"{rate.video} (+{rate.audio} with audio)" if rate.audio else str(rate.video)


if __name__ == "__main__":
    PAGE.write_text(page())
