"""Write docs/models.md: the models by purpose, their limits, and the cost of one second."""

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
HEAD = """# Models

This page shows what each model takes, and what one second of it costs. Magic Hour's API has no list of
models, so the provider contains one. `make models` writes this page from it. To find the model that suits
your images, render one image with two or three models, for a few seconds at the lowest resolution. Compare
the videos on a [contact sheet](operators/contact_sheet.md).

Choose a model with the arguments `model`, `resolution`, `end_seconds`, `audio` and `end_image` of
[ImageToVideoOperator](operators/image_to_video.md). If the model does not take the combination, the operator
refuses it before it uploads or pays anything. The error says what the model takes.

## Models by purpose

"""
TABLE = """
If you name no model, or `default`, Magic Hour chooses one by the account's tier, the resolution and the
length. Then the cost is unknown before the submission. So name a model in a pipeline.

## All models

The credits are for one second of video, in the order of the resolutions. A dash means that no rate is
published ([videos of unknown cost](costs.md#a-video-of-unknown-cost)). Lengths are in seconds.

| model | seconds | resolutions | credits per second | audio | end image |
|---|---|---|---|---|---|
"""
FOOT = """
Audio: `audio=True` switches on audio that is *free* or *costs more*. Audio that is *always on* cannot be
switched off. `sora-2` takes only images with a ratio of 9:16 or 16:9, within 2 %.

## Source and age of the data

Each row comes from the newest documentation of its model: the reference of Magic Hour's API of June and
August 2026, and its Python SDK of April and October 2026. Magic Hour changes its models every few weeks. So
the provider keeps every version that it knows, and refuses a combination only if no version takes it. An
unknown model passes with a warning, and Magic Hour decides.

If Magic Hour takes a combination that the provider refuses, set `validate_model="warn"` to submit it with a
warning, or `"off"` to skip the check. An update of this package contains newer data. The rates have the same
sources. `credits_charged` of a job is the real cost: see [costs](costs.md#where-to-see-what-was-spent).
"""


_AT_NO_COST = (Audio.FREE, Audio.ALWAYS)


def page() -> str:
    """The whole page."""
    rows = [_row(model, versions[-1]) for model, versions in MODELS.items()]
    rows += [f"| `{name}` | as `{base}`, with audio | | | | |" for name, base in AUDIO_ALIASES.items()]
    rows.append("| `default`, or none | 1-60 | Magic Hour's choice, by the account's tier | - | | |")
    return HEAD + "\n".join(_models_by_purpose()) + "\n" + TABLE + "\n".join(rows) + "\n" + FOOT


def _models_by_purpose() -> Iterable[str]:
    yield "| you want | models |"
    yield "|---|---|"
    for resolution in RESOLUTIONS:
        if cheapest := _cheapest(resolution):
            yield f"| the lowest cost per second at {resolution} | {cheapest} |"
    yield f"| more than 30 seconds | {_models_with(lambda each: max(each.durations) > 30)} |"
    yield f"| less than 3 seconds | {_models_with(lambda each: min(each.durations) < 3)} |"
    yield f"| 4k | {_models_with(lambda each: '4k' in each.resolutions)} |"
    yield f"| sound at no extra cost | {_models_with(lambda each: each.audio in _AT_NO_COST)} |"
    yield f"| an end image | {_models_with(lambda each: each.end_image is not None)} |"
    yield f"| a published rate at every resolution | {_models_with(_has_all_rates)} |"


def _newest() -> dict[str, ModelSpec]:
    return {model: versions[-1] for model, versions in MODELS.items()}


def _models_with(wanted: Callable[[ModelSpec], bool]) -> str:
    return ", ".join(f"`{model}`" for model, spec in _newest().items() if wanted(spec))


def _cheapest(resolution: str) -> str:
    """The models with the lowest rate, sound not included; "" if no rate is published."""
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
