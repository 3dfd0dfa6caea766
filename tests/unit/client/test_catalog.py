from __future__ import annotations

import pytest

from magichour_provider.client import pricing as catalog
from magichour_provider.client.pricing import ModelRequest, estimate_credits, is_known, validate
from magichour_provider.exceptions import InvalidRequestError

REFERENCE_PAGE = {
    "ltx-2.3": ([*range(1, 11), 15, 20, 25, 30], ["480p", "720p", "1080p"], True),
    "wan-2.2": ([*range(3, 11), 15], ["480p", "720p", "1080p"], False),
    "kling-2.5": ([5, 10], ["720p", "1080p"], True),
    "kling-3.0": (range(3, 16), ["720p", "1080p", "4k"], True),
    "veo3.1-lite": (range(8, 57, 8), ["720p", "1080p"], True),
    "veo3.1": ([4, 6, *range(8, 57, 8)], ["720p", "1080p"], True),
    "seedance": (range(4, 13), ["480p", "720p", "1080p"], False),
    "seedance-2.0": (range(4, 16), ["480p", "720p"], True),
    "sora-2": ([4, 8, 12, 24, 36, 48, 60], ["720p"], True),
}
"""The image-to-video reference page of June 2026: durations, resolutions, whether audio can be on."""

NEWEST = {
    "gemini-omni-1.1": (range(3, 11), ["360p", "720p", "1080p", "4k"], False),
    "kling-2.6": ([5, 10], ["720p", "1080p"], False),
    "kling-3.0": (range(3, 16), ["720p", "1080p", "4k"], True),
    "ltx-2.5": (range(1, 61), ["480p", "720p", "1080p"], True),
    "minimax-h3": (range(1, 31), ["480p", "720p", "1080p"], True),
    "seedance-1.5": (range(4, 13), ["480p", "720p", "1080p"], True),
    "seedance-2.0": (range(4, 16), ["480p", "720p", "1080p", "4k"], True),
    "seedance-2.0-fast": (range(4, 16), ["480p", "720p"], True),
    "seedance-2.0-mini": (range(4, 16), ["480p", "720p"], True),
    "seedance-2.5": (range(4, 31), ["480p", "720p", "1080p"], True),
    "veo3.1": ([4, 6, *range(8, 57, 8)], ["720p", "1080p"], True),
    "veo3.1-lite": ([4, 6, *range(8, 57, 8)], ["720p", "1080p"], True),
    "wan-2.2": ([*range(3, 11), 15], ["480p", "720p", "1080p"], False),
    "wan-3.0": ([*range(2, 11), 15, 20, 25, 30], ["480p", "720p", "1080p"], True),
}
"""The official Python SDK 0.90.0 of October 2026."""

LEGACY = {
    "ltx-2": ([*range(1, 11), 15, 20, 25, 30], ["480p", "720p", "1080p"], True),
    "kling-1.6": (range(5, 61, 5), ["720p", "1080p"], False),
    "kling-2.5-audio": ([5, 10], ["720p", "1080p"], True),
    "veo3.1-audio": ([4, 6, *range(8, 57, 8)], ["720p", "1080p"], True),
}

DOCUMENTED = [
    pytest.param(model, list(durations), resolutions, audio, id=f"{vintage}-{model}")
    for vintage, table in (("page", REFERENCE_PAGE), ("newest", NEWEST), ("legacy", LEGACY))
    for model, (durations, resolutions, audio) in table.items()
]


@pytest.mark.parametrize(("model", "durations", "resolutions", "audio"), DOCUMENTED)
def test_documented_combination_is_accepted(model, durations, resolutions, audio):
    for end_seconds in durations:
        for resolution in resolutions:
            validate(ModelRequest(model, end_seconds, resolution))
            if audio:
                validate(ModelRequest(model, end_seconds, resolution, audio=True))


@pytest.mark.parametrize(
    ("choice", "objection"),
    [
        (ModelRequest("wan-2.2", 11, "720p"), "end_seconds 11 is none of 3-10, 15"),
        (ModelRequest("kling-2.6", 7, "720p"), "5, 10"),
        (ModelRequest("kling-3.0", 5.5, "720p"), "end_seconds 5.5"),
        (ModelRequest("seedance-2.0-mini", 5, "1080p"), "480p, 720p"),
        (ModelRequest("kling-3.0", 5, "480p"), "720p, 1080p, 4k"),
        (ModelRequest("wan-2.2", 5, "720p", audio=True), "no audio"),
        (ModelRequest("gemini-omni-1.1", 5, "720p", audio=True), "no audio"),
        (ModelRequest("wan-2.2", 5, "720p", end_image=True), "no end image"),
        (ModelRequest("kling-2.6", 5, "720p", end_image=True), "only at 1080p"),
        (ModelRequest("veo3.1", 16, "720p", end_image=True), "only up to 8 seconds"),
        (ModelRequest("sora-2", 4, "720p", image_size=(512, 600)), "9:16 or 16:9"),
        (ModelRequest("default", 61), "between 1 and 60"),
        (ModelRequest("default", 5, "8k"), "'8k'"),
    ],
)
def test_combination_of_no_version_is_refused_with_alternatives(choice, objection):
    with pytest.raises(InvalidRequestError, match="does not take this") as refused:
        validate(choice)
    assert objection in str(refused.value)
    assert "no credits were spent" in str(refused.value)


@pytest.mark.parametrize(
    "choice",
    [
        ModelRequest("veo3.1-lite", 4, "720p"),  # since August 2026
        ModelRequest("seedance", 3, "720p", end_image=True),  # until June 2026
        ModelRequest("kling-2.5", 5, "720p", audio=True),  # until August 2026, then routed to kling-2.6
        ModelRequest("minimax-h3", 12, "480p", end_image=True),  # since October 2026
        ModelRequest("sora-2", 4, "720p", image_size=(1080, 1920)),
        ModelRequest("sora-2", 4, "720p", image_size=(1278, 722)),
    ],
)
def test_one_version_is_enough(choice):
    validate(choice)


def test_versions_are_not_combined():
    """3 s were possible until June 2026, audio since: never both."""
    with pytest.raises(InvalidRequestError):
        validate(ModelRequest("seedance", 3, "720p", audio=True))


def test_unknown_model_passes():
    choice = ModelRequest("kling-9", 90, "8k", audio=True, end_image=True)
    assert not is_known(choice.model)
    validate(choice)
    assert estimate_credits(choice) is None


@pytest.mark.parametrize(
    ("choice", "cost"),
    [
        (ModelRequest("kling-3.0", 8, "720p"), 384),
        (ModelRequest("veo3.1", 8, "720p"), 768),
        (ModelRequest("sora-2", 8, "720p"), 960),
        (ModelRequest("seedance-2.5", 8, "720p"), 4608),
        (ModelRequest("ltx-2.3", 5, "720p"), 240),
        (ModelRequest("ltx-2.5", 8, "720p"), 384),
        (ModelRequest("kling-3.0", 5, "4k", audio=True), 5 * 288),
        (ModelRequest("seedance-1.5", 5, "480p", audio=True), 300),
        (ModelRequest("veo3.1-audio", 8, "720p"), 960),
        (ModelRequest("seedance-2.0", 4, "480p", audio=True), 576),
    ],
)
def test_estimate_is_the_published_or_observed_price(choice, cost):
    assert estimate_credits(choice) == cost


@pytest.mark.parametrize(
    "choice",
    [
        ModelRequest("wan-3.0", 5, "720p"),
        ModelRequest("ltx-2.5", 5, "480p"),
        ModelRequest("default", 5, "720p"),
        ModelRequest("kling-3.0", 5),
    ],
)
def test_unpublished_rate_has_no_estimate(choice):
    assert estimate_credits(choice) is None


def test_default_resolution_by_tier():
    assert catalog.default_resolution("free") == "480p"
    assert catalog.default_resolution("pro") == "720p"
    assert catalog.default_resolution(None) is None
