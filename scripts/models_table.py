"""Write docs/models.md from the catalogue: which model for what, and what a second of it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from magichour_provider.client.pricing import (
    AUDIO_ALIASES,
    MODELS,
    RESOLUTIONS,
    Audio,
    ModelSpec,
    format_durations,
)

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
HEAD = """# Choosing a model

What each model takes, and what a second of it costs. Magic Hour's API has no list of this: the provider
carries a catalogue, from which `make models` writes this page. It knows limits and prices, not looks. To
see which model suits your images, render one of them with two or three, for a few seconds at the lowest
resolution, and look at them side by side on a [contact sheet](operators/contact_sheet.md).

A model is named by `model=`, with `resolution=`, `end_seconds=`, `audio=` and `end_image=` of
[ImageToVideoOperator](operators/image_to_video.md). What the model does not take is refused before anything
is uploaded or paid, and the error says what it takes instead.

## Which one for what

"""
TABLE = """
Where no model is named, or `default`, Magic Hour chooses one, by the account's tier, the resolution and the
length: what that costs nobody can tell beforehand. In a pipeline name one.

## All models

Credits are for one second of output, in the order of the resolutions; a dash means that no rate is
published ([what that means for budgets](costs.md#a-clip-of-unknown-cost)). Lengths are in seconds.

| model | seconds | resolutions | credits a second | audio | end image |
|---|---|---|---|---|---|
"""
FOOT = """
Audio: *free* and *costs more* are switched on by `audio=True`, *always on* cannot be switched off. `sora-2`
takes only images of 9:16 or 16:9, within 2 %.

## Where it comes from, and when it is out of date

The rows are of the newest documentation of each model: the reference of Magic Hour's API of June and August
2026, and its Python SDK of April and October 2026. Magic Hour changes its models every few weeks. So the
catalogue keeps every version that it knows, and refuses a combination only if none takes it. A model that
it does not know at all passes, with a warning, and Magic Hour decides.

Where Magic Hour takes something that is refused here, `validate_model="warn"` submits all the same and
`"off"` does not look; an update of this package brings the newer catalogue. Prices are of the same sources.
What a clip did cost is in its `credits_charged`, and the two can be compared: see
[costs](costs.md#what-was-spent).
"""


_AT_NO_COST = (Audio.FREE, Audio.ALWAYS)


def page() -> str:
    """The whole page."""
    rows = [_row(model, versions[-1]) for model, versions in MODELS.items()]
    rows += [f"| `{name}` | as `{base}`, with audio | | | | |" for name, base in AUDIO_ALIASES.items()]
    rows.append("| `default`, or none | 1-60 | Magic Hour's choice, by the account's tier | - | | |")
    return HEAD + "\n".join(_advice()) + "\n" + TABLE + "\n".join(rows) + "\n" + FOOT


def _advice() -> Iterable[str]:
    yield "| you want | models |"
    yield "|---|---|"
    for resolution in RESOLUTIONS:
        if cheapest := _cheapest(resolution):
            yield f"| the least credits a second at {resolution} | {cheapest} |"
    yield f"| more than 30 seconds | {_those(lambda each: max(each.durations) > 30)} |"
    yield f"| less than 3 seconds | {_those(lambda each: min(each.durations) < 3)} |"
    yield f"| 4k | {_those(lambda each: '4k' in each.resolutions)} |"
    yield f"| sound that costs nothing more | {_those(lambda each: each.audio in _AT_NO_COST)} |"
    yield f"| an end image | {_those(lambda each: each.end_image is not None)} |"
    yield f"| a price that is known beforehand, at every resolution | {_those(_has_all_rates)} |"


def _newest() -> dict[str, ModelSpec]:
    return {model: versions[-1] for model, versions in MODELS.items()}


def _those(wanted: Callable[[ModelSpec], bool]) -> str:
    return ", ".join(f"`{model}`" for model, spec in _newest().items() if wanted(spec))


def _cheapest(resolution: str) -> str:
    """The models with the lowest rate, sound not included; "" where no rate is published."""
    rates = {model: rate.video for model, spec in _newest().items() if (rate := spec.rates.get(resolution))}
    least = min(rates.values(), default=0)
    names = ", ".join(f"`{model}`" for model, rate in rates.items() if rate == least)
    return f"{names} ({least})" if names else ""


def _has_all_rates(spec: ModelSpec) -> bool:
    return all(_rate(spec, resolution) != "-" for resolution in spec.resolutions)


def _row(model: str, spec: ModelSpec) -> str:
    rates = [_rate(spec, resolution) for resolution in spec.resolutions]
    end = spec.end_image
    limit = f", up to {end.max_seconds} s" if end and end.max_seconds < max(spec.durations) else ""
    cells = [
        f"`{model}`",
        format_durations(spec.durations),
        ", ".join(spec.resolutions),
        " / ".join(rates),
        spec.audio.value,
        f"{', '.join(end.resolutions)}{limit}" if end else "no",
    ]
    return f"| {' | '.join(cells)} |"


def _rate(spec: ModelSpec, resolution: str) -> str:
    rate = spec.rates.get(resolution)
    if rate is None:
        return "-"
    return f"{rate.video} (+{rate.audio} with audio)" if rate.audio else str(rate.video)


if __name__ == "__main__":
    PAGE.write_text(page())
