"""What a user can get wrong, and that it costs nothing: submissions against the sandbox."""

from __future__ import annotations

import io
import logging

import pytest
from PIL import Image

from magichour_provider import exceptions as errors
from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient
from magichour_provider.jobs.preflight import check, read_account, upload_images
from magichour_provider.jobs.request import VideoRequest, fingerprint, open_images

IMAGE = "dags_examples/images/grace_hopper.jpg"


@pytest.fixture
def client(magichour_sandbox):
    with MagicHourClient.from_settings(
        ClientSettings(magichour_sandbox.api_key, magichour_sandbox.url)
    ) as client:
        yield client


log = logging.getLogger(__name__)


def submit(client, order):
    images = open_images(order)
    log.warning("%s", check(read_account(client), order, images).warnings)
    return client.create_image_to_video(upload_images(client, order, images))


def order(**fields):
    return VideoRequest.from_arguments(
        **{"image": IMAGE, "end_seconds": 5, "model": "ltx-2.3", "resolution": "480p", **fields}
    )


def spent(sandbox):
    return sum(charge["credits"] for job in sandbox.control.state()["jobs"] for charge in job["charges"])


def test_an_order_becomes_one_job_with_everything_in_it(client, magichour_sandbox):
    job = submit(
        client, order(end_image=IMAGE, prompt="closer", audio="true", name="a name", end_seconds="5")
    )
    (made,) = magichour_sandbox.control.state()["jobs"]
    assert made["id"] == job.id
    expected = {"model": "ltx-2.3", "resolution": "480p", "end_seconds": 5, "name": "a name", "audio": True}
    assert expected.items() <= made.items()
    assert made["image_file_path"].startswith("api-assets/")
    assert job.credits_charged == 120


@pytest.mark.parametrize("image", ["https://example.com/still.png", "saved-items/abc/still.png"])
def test_what_is_there_already_is_not_uploaded(client, magichour_sandbox, image):
    submit(client, order(image=image))
    ledger = magichour_sandbox.control.state()
    assert ledger["uploads"] == []
    assert ledger["jobs"][0]["image_file_path"] == image


def files(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("<html>not an image</html>")
    (tmp_path / "still.gif").write_bytes(b"GIF89a")
    (tmp_path / "folder.png").mkdir()


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"image": "{tmp}/missing.png"}, errors.ImageError, "missing.png"),
        ({"image": "{tmp}/empty.png"}, errors.ImageError, "empty"),
        ({"image": "{tmp}/text.jpg"}, errors.ImageError, "text.jpg"),
        ({"image": "{tmp}/still.gif"}, errors.ImageError, "gif"),
        ({"image": "{tmp}/folder.png"}, errors.ImageError, "folder"),
        ({"end_image": "{tmp}/missing.png"}, errors.ImageError, "missing.png"),
        ({"end_seconds": 11}, errors.InvalidRequestError, "end_seconds 11"),
        ({"end_seconds": "five"}, errors.InvalidRequestError, "end_seconds"),
        ({"resolution": "4k"}, errors.InvalidRequestError, "4k"),
        ({"model": "wan-2.2", "audio": True}, errors.InvalidRequestError, "audio"),
        ({"model": "wan-2.2", "end_image": IMAGE}, errors.InvalidRequestError, "end image"),
        ({"model": "sora-2", "resolution": "720p", "end_seconds": 4}, errors.InvalidRequestError, "9:16"),
        ({"image": ["a.jpg"]}, errors.InvalidRequestError, "image"),
        ({"prompt": {"a": 5}}, errors.InvalidRequestError, "prompt"),
        ({"max_credits": 200.5}, errors.InvalidRequestError, "whole number"),
        ({"audio": "loud"}, errors.InvalidRequestError, "audio"),
        ({"max_credits": 119}, errors.BudgetError, "120"),
        ({"max_credits": 500, "model": "wan-3.0"}, errors.BudgetError, "not published"),
        ({"max_credits": 500, "model": "LTX2.3"}, errors.BudgetError, "did you mean 'ltx-2.3'?"),
        ({"max_credits": -1}, errors.InvalidRequestError, "max_credits"),
        ({"max_credits_per_run": 119}, errors.BudgetError, "max_credits_per_run is 119"),
        ({"max_credits_per_run": 500, "model": "wan-3.0"}, errors.BudgetError, "not published"),
        ({"on_unknown_cost": "fail", "model": "wan-3.0"}, errors.BudgetError, "on_unknown_cost='allow'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_uploaded_or_paid(
    client, magichour_sandbox, tmp_path, fields, error, says
):
    files(tmp_path)
    fields = {
        key: value.format(tmp=tmp_path) if isinstance(value, str) else value for key, value in fields.items()
    }
    with pytest.raises(error) as refused:
        submit(client, order(**fields))
    assert says in str(refused.value)
    assert "no credits were spent" in str(refused.value)
    assert not refused.value.retryable
    ledger = magichour_sandbox.control.state()
    assert (ledger["jobs"], ledger["uploads"]) == ([], [])


@pytest.mark.parametrize(
    "limits", [{}, {"on_unknown_cost": "allow"}, {"on_unknown_cost": "allow", "max_credits": 1}]
)
def test_video_of_unknown_cost_is_submitted_if_allowed(client, magichour_sandbox, limits):
    submit(client, order(model="wan-3.0", **limits))
    assert spent(magichour_sandbox) > 0


def test_a_wrong_key_is_found_before_anything_is_uploaded(magichour_sandbox):
    with (
        MagicHourClient.from_settings(ClientSettings("wrong", magichour_sandbox.url)) as client,
        pytest.raises(errors.AuthenticationError, match="API key"),
    ):
        submit(client, order())
    assert magichour_sandbox.control.state()["uploads"] == []


def test_a_balance_that_cannot_pay_is_said_with_what_is_missing(client, magichour_sandbox):
    magichour_sandbox.control.account(credits=20)
    with pytest.raises(errors.BudgetError, match="needs 120 credits, and the account has 20, 100 short"):
        submit(client, order())
    assert magichour_sandbox.control.state()["uploads"] == []


def test_an_image_too_large_for_the_tier_is_not_uploaded(client, magichour_sandbox, monkeypatch):
    monkeypatch.setattr("magichour_provider.client.pricing.MAX_UPLOAD_BYTES", {"free": 1000})
    magichour_sandbox.control.account(tier="free")
    with pytest.raises(errors.ImageError, match="tier 'free'"):
        submit(client, order())
    assert magichour_sandbox.control.state()["uploads"] == []


def test_without_an_account_endpoint_the_server_decides(client, magichour_sandbox):
    magichour_sandbox.control.behaviour(account_endpoint=False)
    magichour_sandbox.control.account(credits=20)
    with pytest.raises(errors.PaymentRequiredError):
        submit(client, order())
    assert spent(magichour_sandbox) == 0


def test_the_catalogue_can_warn_or_be_silent(client, magichour_sandbox, caplog):
    for mode in ("warn", "off"):
        caplog.clear()
        with pytest.raises(errors.APIError):
            submit(client, order(end_seconds=11, validate_model=mode))
        assert ("end_seconds 11" in caplog.text) is (mode == "warn")
    assert spent(magichour_sandbox) == 0


def test_an_unknown_model_is_left_to_magic_hour_with_a_warning(client, magichour_sandbox, caplog):
    magichour_sandbox.control.behaviour(unknown_model="accept")
    submit(client, order(model="kling-9"))
    assert "kling-9" in caplog.text


def test_a_broken_upload_is_begun_again_and_paid_once(client, magichour_sandbox):
    magichour_sandbox.control.faults([{"method": "PUT", "path": "*", "drop": "after", "times": 2}])
    submit(client, order())
    assert spent(magichour_sandbox) == 120


def test_an_image_that_changes_while_it_is_uploaded_is_not_rendered(
    client, magichour_sandbox, tmp_path, monkeypatch
):
    content = io.BytesIO()
    Image.effect_noise((1500, 1500), 90).save(content, "PNG")
    image = tmp_path / "growing.png"
    image.write_bytes(content.getvalue())
    get_account = client.get_account

    def cut_short():
        image.write_bytes(content.getvalue()[:-1000])
        return get_account()

    monkeypatch.setattr(client, "get_account", cut_short)
    with pytest.raises(errors.MagicHourError):
        submit(client, order(image=str(image)))
    assert magichour_sandbox.control.state()["jobs"] == []


@pytest.mark.parametrize(
    "change",
    [
        *({"end_seconds": 6}, {"prompt": "other"}, {"model": "ltx-2.5"}, {"resolution": "720p"}),
        *({"audio": True}, {"end_image": IMAGE}, {"image": "https://example.com/b.png"}),
    ],
)
def test_fingerprint_changes_with_the_video(change):
    one, other = order(), order(**change)
    assert fingerprint(one, open_images(one)) != fingerprint(other, open_images(other))


def test_fingerprint_ignores_name_and_signature(tmp_path):
    copied = tmp_path / "other-name.jpg"
    copied.write_bytes(open(IMAGE, "rb").read())  # noqa: PTH123, SIM115
    orders = [order(), order(name="other", max_credits=500), order(image=str(copied))]
    assert len({fingerprint(each, open_images(each)) for each in orders}) == 1
    signed = [order(image=f"https://example.com/a.png?sig={sig}") for sig in "ab"]
    assert len({fingerprint(each, open_images(each)) for each in signed}) == 1
