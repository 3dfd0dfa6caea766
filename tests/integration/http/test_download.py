"""A video arrives whole or not at all, for each behaviour of its storage and its URLs."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.operators.download import DownloadVideoOperator

MIB = 1 << 20
DAY = 86_400
VIDEOS = {"method": "GET", "origin": "storage", "path": "*/output.mp4"}
KINDS = ("etag-md5", "none", "content-md5", "goog", "sha-256", "digest")
IN_PADDING = 2 * MIB


@pytest.fixture
def contents(magic):
    """What the videos of a job are, fetched by a plain client."""

    def contents(project_id):
        return [magic.files.get(link["url"]).content for link in magic.get(project_id)["downloads"]]

    return contents


@pytest.fixture
def answers(magic):
    """How often the storage has answered with each status since the last reading, videos only."""
    seen = {}

    def answers():
        now = {}
        for entry in magic.control.state()["requests"]:
            if entry["origin"] == "storage" and entry["method"] == "GET":
                now[entry["status"]] = now.get(entry["status"], 0) + entry["count"]
        new = {status: count - seen.get(status, 0) for status, count in now.items()}
        seen.update(now)
        return {status: count for status, count in new.items() if count}

    return answers


@pytest.fixture
def in_between(magic):
    """Download in a thread whose first connection breaks; act before its second request is handled."""

    def in_between(save, act, *, cut=3 * MIB):
        magic.control.faults(
            [{**VIDEOS, "truncate": cut, "times": 1}, {**VIDEOS, "hold": "before", "times": 1}]
        )
        outcome = []

        def run():
            try:
                outcome.append(save())
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        while not magic.control.state()["held"] and thread.is_alive():
            pass
        act()
        magic.control.release()
        thread.join(60)
        return outcome[0]

    return in_between


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def flipped(content, offset):
    return content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]


# --- links that break and expire


@pytest.mark.parametrize("piece", [512 * 1024, MIB, 3 * MIB])
def test_broken_download_is_resumed_each_time(hook, magic, order, contents, answers, tmp_path, piece):
    project_id = order(12 * MIB)
    (content,) = contents(project_id)
    magic.control.faults([{**VIDEOS, "truncate": piece}])
    answers()
    saved = hook.download(project_id, f"{tmp_path}/")
    assert saved["sha256"] == sha256(content) == sha256(Path(saved["path"]).read_bytes())
    pieces = -(-len(content) // piece)
    assert answers() == {200: 1, 206: pieces - 1}  # so each byte was sent once
    assert names_in(tmp_path) == [f"{project_id}.mp4"]


@pytest.mark.parametrize("status", [403, 404])
def test_expired_url_is_requested_again_and_resumed(
    hook, magic, order, contents, answers, in_between, tmp_path, status
):
    project_id = order(12 * MIB, expired_status=status)
    (content,) = contents(project_id)
    answers()
    saved = in_between(
        lambda: hook.download(project_id, f"{tmp_path}/"), lambda: magic.control.advance_clock(DAY + 60)
    )
    assert saved["sha256"] == sha256(content)
    assert answers() == {200: 1, status: 1, 206: 1}
    assert names_in(tmp_path) == [f"{project_id}.mp4"]


def test_job_deleted_during_the_download_leaves_nothing(hook, magic, order, in_between, tmp_path):
    project_id = order(12 * MIB)

    def remove():
        hook.delete_video(project_id)
        magic.control.advance_clock(DAY + 60)

    outcome = in_between(lambda: hook.download(project_id, f"{tmp_path}/"), remove)
    assert isinstance(outcome, errors.JobDeletedError)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 500}, {"drop": "before"}, {"drop": "after"}])
def test_storage_error_that_passes_is_retried(hook, magic, order, contents, tmp_path, fault):
    project_id = order()
    (content,) = contents(project_id)
    magic.control.faults([{**VIDEOS, **fault, "times": 4}])
    assert hook.download(project_id, f"{tmp_path}/")["sha256"] == sha256(content)


# --- storages and proxies that answer in other ways than asked


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_followed(hook, magic, order, contents, tmp_path, status):
    project_id = order()
    wanted = contents(project_id)
    magic.control.faults([{**VIDEOS, "redirect": status}])
    assert [Path(hook.download(project_id, f"{tmp_path}/")["path"]).read_bytes()] == wanted


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("cut", [False, True])
def test_compressed_video_is_saved_as_it_was(hook, magic, order, contents, tmp_path, coding, cut):
    project_id = order(2 * MIB)
    wanted = contents(project_id)
    breaks = [{**VIDEOS, "truncate": MIB, "times": 1}] if cut else []
    magic.control.faults([*breaks, {**VIDEOS, "encode": coding}])
    saved = hook.download(project_id, f"{tmp_path}/")
    assert [Path(saved["path"]).read_bytes()] == wanted
    assert hook.download(project_id, f"{tmp_path}/") == saved


@pytest.mark.parametrize("asked", ["bytes=0-", "bytes=0-999999"])
def test_range_that_was_not_asked_for_is_the_start(hook, magic, order, contents, answers, tmp_path, asked):
    project_id = order(3 * MIB)
    wanted = contents(project_id)
    magic.control.faults([{**VIDEOS, "as_range": asked}])
    answers()
    assert [Path(hook.download(project_id, f"{tmp_path}/")["path"]).read_bytes()] == wanted
    assert answers() == {206: 1 if asked == "bytes=0-" else 2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["\0" * 8, "\0" * 4096, "\n", "\r\n--boundary--\r\n"])
def test_bytes_after_the_last_box_are_saved_with_the_video(hook, order, contents, tmp_path, kind, ending):
    project_id = order(video_checksum=kind, video_ending=ending)
    wanted = contents(project_id)
    saved = hook.download(project_id, f"{tmp_path}/")
    assert [Path(saved["path"]).read_bytes()] == wanted
    assert wanted[0].endswith(ending.encode())
    assert (saved["fps"], saved["duration"]) == (24, pytest.approx(3, abs=0.05))
    assert hook.download(project_id, f"{tmp_path}/") == saved


# --- bodies that are no video


@pytest.mark.parametrize(
    "body",
    [
        "<html><body>Sign in</body></html>",
        "<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        '{"message": "no"}',
        "\x00\x00\x00\x18ftyp",
    ],
)
@pytest.mark.parametrize("old", [None, b"what stood there before"])
def test_body_that_is_no_video_is_never_published(hook, magic, order, tmp_path, body, old):
    target = tmp_path / "video.mp4"
    if old is not None:
        target.write_bytes(old)
    magic.control.faults([{**VIDEOS, "status": 200, "body": body}])
    with pytest.raises(errors.NotAVideoError):
        hook.download(order(), str(target), if_exists="overwrite")
    assert names_in(tmp_path) == ([] if old is None else ["video.mp4"])
    assert old is None or target.read_bytes() == old


# --- bytes that are not the ones that were sent


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_flipped_bit_after_a_resume_is_found(hook, magic, order, contents, answers, tmp_path, kind):
    project_id = order(4 * MIB, video_checksum=kind)
    (content,) = contents(project_id)
    magic.control.faults(
        [{**VIDEOS, "truncate": MIB, "times": 1}, {**VIDEOS, "flip": IN_PADDING, "times": 1}]
    )
    answers()
    assert hook.download(project_id, f"{tmp_path}/")["sha256"] == sha256(content)
    assert answers() == {200: 2, 206: 1}


# --- several videos of one project


@pytest.mark.parametrize(
    ("path", "file_name", "names"),
    [
        ("", "{project_id}.mp4", ["{id}.mp4", "{id}-2.mp4", "{id}-3.mp4"]),
        ("", "{index}-{name}-{project_id}.mp4", ["1-A_cat-{id}.mp4", "2-A_cat-{id}.mp4", "3-A_cat-{id}.mp4"]),
        ("", "{project_id}{{index}}", ["{id}{{index}}", "{id}{{index}}-2", "{id}{{index}}-3"]),
        ("video.mp4", "{project_id}.mp4", ["video.mp4", "video-2.mp4", "video-3.mp4"]),
    ],
)
@pytest.mark.parametrize("if_exists", ["skip", "overwrite", "fail"])
def test_each_video_of_a_job_has_its_own_name(
    hook, order, contents, tmp_path, path, file_name, names, if_exists
):
    project_id = order(downloads_per_job=3, name="A cat!")
    wanted = contents(project_id)
    assert len(set(wanted)) == 3
    result = hook.download(project_id, f"{tmp_path}/{path}", file_name=file_name, if_exists=if_exists)
    named = [name.format(id=project_id) for name in names]
    assert [Path(video["path"]).name for video in result["videos"]] == named
    assert [Path(video["path"]).read_bytes() for video in result["videos"]] == wanted
    assert result == {**result["videos"][0], "videos": result["videos"]}
    assert names_in(tmp_path) == sorted(named)
    assert json.loads(json.dumps(result)) == result


def test_expired_url_of_the_second_video_is_requested_again(hook, magic, order, contents, answers, tmp_path):
    project_id = order(4 * MIB, downloads_per_job=2)
    wanted = contents(project_id)
    second = {**VIDEOS, "path": "*/2/output.mp4", "times": 1}
    magic.control.faults([{**second, "truncate": MIB}, {**second, "status": 403}])
    answers()
    result = hook.download(project_id, f"{tmp_path}/")
    assert [video["sha256"] for video in result["videos"]] == [sha256(content) for content in wanted]
    assert answers() == {200: 2, 403: 1, 206: 1}


# --- what stands under the name already


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["", "video.mp4"])
def test_skip_keeps_the_same_video(hook, order, tmp_path, kind, path):
    project_id = order(4 * MIB, video_checksum=kind)
    first = hook.download(project_id, f"{tmp_path}/{path}")
    written = Path(first["path"]).stat()
    assert hook.download(project_id, f"{tmp_path}/{path}") == first
    again = Path(first["path"]).stat()
    assert (again.st_ino, again.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert len(names_in(tmp_path)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_skip_refuses_another_video_of_the_same_size(hook, order, tmp_path, kind):
    project_id = order(4 * MIB, video_checksum=kind)
    target = tmp_path / "video.mp4"
    hook.download(project_id, str(target))
    other = flipped(target.read_bytes(), IN_PADDING)
    target.write_bytes(other)
    with pytest.raises(errors.DestinationError, match="is another video") as failed:
        hook.download(project_id, str(target))
    assert not failed.value.retryable
    assert target.read_bytes() == other
    assert names_in(tmp_path) == ["video.mp4"]


# --- removing the video at Magic Hour


def is_there(hook, project_id):
    try:
        return hook.get_video(project_id).enabled
    except errors.NotFoundError:
        return False


@pytest.mark.parametrize("deleted", ["disabled", "not_found"])
@pytest.mark.parametrize(("path", "again_is_known"), [("", True), ("video.mp4", False)])
def test_delete_remote_deletes_after_the_download(hook, order, tmp_path, deleted, path, again_is_known):
    project_id = order(deleted=deleted, downloads_per_job=2)
    first = hook.download(project_id, f"{tmp_path}/{path}", delete_remote=True)
    assert not is_there(hook, project_id)
    assert len(first["videos"]) == len(names_in(tmp_path)) == 2
    if again_is_known:
        assert hook.download(project_id, f"{tmp_path}/{path}", delete_remote=True) == first
        return
    with pytest.raises((errors.JobDeletedError, errors.NotFoundError)):
        hook.download(project_id, f"{tmp_path}/{path}", delete_remote=True)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "replace"])
def test_delete_remote_deletes_nothing_if_a_video_has_changed(hook, order, tmp_path, number, harm):
    project_id = order(4 * MIB, downloads_per_job=2)
    result = hook.download(project_id, f"{tmp_path}/")
    path = Path(result["videos"][number]["path"])
    content = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        other = Path(result["videos"][1 - number]["path"]).read_bytes()
        path.write_bytes({"flip": flipped(content, IN_PADDING), "cut": content[:-1], "replace": other}[harm])
    with pytest.raises(errors.TransferError, match="not the video that was saved"):
        hook.delete_after_verify(result)
    assert is_there(hook, project_id)
    path.write_bytes(content)
    hook.delete_after_verify(result)
    assert not is_there(hook, project_id)
    hook.delete_after_verify(result)


class Store(dict):
    """Of Airflow's task state store, what a task uses; JSON goes through it."""

    def set(self, key, value, retention=None):
        self[key] = json.dumps(value)

    def get(self, key):
        return json.loads(self[key]) if key in self else None


def run(context, project_id, path, **options):
    """A try of the operator, whose end no user sees: as a kill after its last step does."""
    task = DownloadVideoOperator(
        task_id="save", project_id=project_id, path=str(path), delete_remote=True, **options
    )
    return task.execute(context)


@pytest.mark.parametrize("deleted", ["disabled", "not_found"])
@pytest.mark.parametrize("if_exists", ["skip", "overwrite", "fail"])
@pytest.mark.parametrize("path", ["", "video.mp4"])
def test_attempt_after_a_kill_between_deletion_and_success_succeeds(
    hook, order, tmp_path, deleted, if_exists, path
):
    project_id = order(deleted=deleted, downloads_per_job=2, name="A cat")
    context = {"task_state_store": Store()}
    options = {"if_exists": if_exists, "file_name": "{name}-{project_id}.mp4"}
    first = run(context, project_id, f"{tmp_path}/{path}", **options)
    assert not is_there(hook, project_id)
    assert len(first["videos"]) == 2
    for _ in range(2):
        assert run(context, project_id, f"{tmp_path}/{path}", **options) == first


def test_attempt_after_a_kill_before_the_deletion_deletes(hook, magic, order, tmp_path):
    project_id = order()
    context = {"task_state_store": Store()}
    magic.control.faults([{"method": "DELETE", "path": "/v1/video-projects/*", "status": 403}])
    with pytest.raises(errors.MagicHourError):
        run(context, project_id, tmp_path / "video.mp4")
    magic.control.faults([])
    run(context, project_id, tmp_path / "video.mp4")
    assert not is_there(hook, project_id)


def test_stored_result_of_a_missing_file_is_no_success(hook, order, tmp_path):
    project_id = order()
    context = {"task_state_store": Store()}
    Path(run(context, project_id, tmp_path / "video.mp4")["path"]).unlink()
    with pytest.raises(errors.TransferError, match="not the video that was saved"):
        run(context, project_id, tmp_path / "video.mp4")
