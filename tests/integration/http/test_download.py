"""Clips land whole or not at all, whatever their storage and its links do."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.hooks.magichour import MagicHourHook
from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.storage import download as fetching

MIB = 1 << 20
DAY = 86_400
CLIPS = {"method": "GET", "origin": "storage", "path": "*/output.mp4"}
KINDS = ("etag-md5", "none", "content-md5", "goog", "sha-256", "digest")
CERTAIN = ("content-md5", "goog", "sha-256", "digest")
IN_PADDING = 2 * MIB


@pytest.fixture
def hook(monkeypatch, magichour_sandbox):
    fields = {"password": magichour_sandbox.api_key, "host": magichour_sandbox.url, "conn_type": "magichour"}
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", json.dumps(fields))
    monkeypatch.setattr(fetching, "_LONGEST_PAUSE_SECONDS", 0.0)
    hook = MagicHourHook()
    yield hook
    hook.close()


@pytest.fixture
def contents(magic):
    """What the clips of a job are, fetched by a plain client."""

    def contents(project_id):
        return [magic.files.get(link["url"]).content for link in magic.get(project_id)["downloads"]]

    return contents


@pytest.fixture
def answers(magic):
    """How often the storage has answered with each status since the last reading, clips only."""
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
    """Land in a thread whose first connection breaks; act before its second request is handled."""

    def in_between(land, act, *, cut=3 * MIB):
        magic.control.faults(
            [{**CLIPS, "truncate": cut, "times": 1}, {**CLIPS, "hold": "before", "times": 1}]
        )
        outcome = []

        def run():
            try:
                outcome.append(land())
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
def test_a_link_that_breaks_again_and_again_is_taken_up_each_time(
    hook, magic, order, contents, answers, tmp_path, piece
):
    project_id = order(12 * MIB)
    (content,) = contents(project_id)
    magic.control.faults([{**CLIPS, "truncate": piece}])
    answers()
    landed = hook.download(project_id, f"{tmp_path}/")
    assert landed["sha256"] == sha256(content) == sha256(Path(landed["path"]).read_bytes())
    pieces = -(-len(content) // piece)
    assert answers() == {200: 1, 206: pieces - 1}  # so each byte was sent once
    assert names_in(tmp_path) == [f"{project_id}.mp4"]


def test_a_link_that_breaks_before_it_gets_anywhere_is_given_up(hook, magic, order, answers, tmp_path):
    project_id = order(12 * MIB)
    magic.control.faults([{**CLIPS, "truncate": 100 * 1024}])
    with pytest.raises(errors.DownloadError) as failed:
        hook.download(project_id, f"{tmp_path}/")
    assert failed.value.retryable
    assert sum(answers().values()) <= 12
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("status", [403, 404])
def test_a_link_that_expires_half_way_is_asked_for_anew_and_taken_up(
    hook, magic, order, contents, answers, in_between, tmp_path, status
):
    project_id = order(12 * MIB, expired_status=status)
    (content,) = contents(project_id)
    answers()
    landed = in_between(
        lambda: hook.download(project_id, f"{tmp_path}/"), lambda: magic.control.advance_clock(DAY + 60)
    )
    assert landed["sha256"] == sha256(content)
    assert answers() == {200: 1, status: 1, 206: 1}
    assert names_in(tmp_path) == [f"{project_id}.mp4"]


def test_a_link_that_expires_under_every_connection_is_asked_for_each_time(
    hook, magic, order, contents, answers, tmp_path
):
    project_id = order(12 * MIB)
    (content,) = contents(project_id)
    rules = [[{**CLIPS, "truncate": 2 * MIB, "times": 1}, {**CLIPS, "status": 403, "times": 1}]] * 5
    magic.control.faults([rule for pair in rules for rule in pair])
    answers()
    assert hook.download(project_id, f"{tmp_path}/")["sha256"] == sha256(content)
    assert answers() == {200: 1, 403: 5, 206: 5}


def test_a_project_that_is_removed_half_way_leaves_nothing(hook, magic, order, in_between, tmp_path):
    project_id = order(12 * MIB)

    def remove():
        hook.delete_video(project_id)
        magic.control.advance_clock(DAY + 60)

    outcome = in_between(lambda: hook.download(project_id, f"{tmp_path}/"), remove)
    assert isinstance(outcome, errors.JobDeletedError)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 500}, {"drop": "before"}, {"drop": "after"}])
def test_a_storage_in_trouble_for_a_while_is_waited_for(hook, magic, order, contents, tmp_path, fault):
    project_id = order()
    (content,) = contents(project_id)
    magic.control.faults([{**CLIPS, **fault, "times": 4}])
    assert hook.download(project_id, f"{tmp_path}/")["sha256"] == sha256(content)


# --- storages without ranges, and files that change


def test_a_storage_without_ranges_is_asked_for_the_whole_again(
    hook, magic, order, contents, answers, tmp_path
):
    project_id = order(12 * MIB, ranges=False)
    (content,) = contents(project_id)
    magic.control.faults([{**CLIPS, "truncate": 5 * MIB, "times": 3}])
    answers()
    assert hook.download(project_id, f"{tmp_path}/")["sha256"] == sha256(content)
    assert answers() == {200: 4}
    magic.control.faults([{**CLIPS, "truncate": 5 * MIB}])
    with pytest.raises(errors.TransferError, match="could not be taken up") as failed:
        hook.download(project_id, f"{tmp_path}/again/")
    assert failed.value.retryable
    assert names_in(tmp_path / "again") == []


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("longer", [True, False])
def test_a_clip_that_changes_half_way_is_landed_as_it_is_then(
    hook, magic, order, contents, in_between, tmp_path, ranges, longer
):
    project_id = order(12 * MIB, ranges=ranges)
    other_id = order(13 * MIB if longer else 4 * MIB, ranges=ranges)
    (other,) = contents(other_id)
    landed = in_between(
        lambda: hook.download(project_id, f"{tmp_path}/"),
        lambda: magic.control.replace_video(project_id, other),
    )
    assert landed["sha256"] == sha256(other) == sha256(Path(landed["path"]).read_bytes())
    assert names_in(tmp_path) == [f"{project_id}.mp4"]


def test_a_clip_that_gets_shorter_than_what_is_there_is_landed_as_it_is_then(
    hook, magic, order, contents, in_between, tmp_path
):
    project_id, other_id = order(12 * MIB), order()
    (other,) = contents(other_id)
    landed = in_between(
        lambda: hook.download(project_id, f"{tmp_path}/"),
        lambda: magic.control.replace_video(project_id, other),
    )
    assert landed["sha256"] == sha256(other)


# --- bodies that are no clip


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
def test_a_body_that_is_no_clip_is_never_published(hook, magic, order, tmp_path, body, old):
    target = tmp_path / "clip.mp4"
    if old is not None:
        target.write_bytes(old)
    magic.control.faults([{**CLIPS, "status": 200, "body": body}])
    with pytest.raises(errors.NotAVideoError):
        hook.download(order(), str(target), if_exists="overwrite")
    assert names_in(tmp_path) == ([] if old is None else ["clip.mp4"])
    assert old is None or target.read_bytes() == old


def test_a_page_in_the_place_of_the_rest_is_never_published(hook, magic, order, tmp_path):
    project_id = order(12 * MIB)
    page = {**CLIPS, "status": 200, "body": "<html>expired</html>"}
    magic.control.faults([{**CLIPS, "truncate": 3 * MIB, "times": 1}, page])
    with pytest.raises(errors.NotAVideoError, match="web page"):
        hook.download(project_id, f"{tmp_path}/")
    assert names_in(tmp_path) == []


# --- bytes that are not the ones that were sent


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_a_flipped_bit_is_found_and_the_clip_fetched_again(
    hook, magic, order, contents, answers, tmp_path, kind
):
    project_id = order(4 * MIB, video_checksum=kind)
    (content,) = contents(project_id)
    magic.control.faults([{**CLIPS, "flip": IN_PADDING, "times": 1}])
    answers()
    assert hook.download(project_id, f"{tmp_path}/")["sha256"] == sha256(content)
    assert answers() == {200: 2}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_a_flipped_bit_in_the_rest_of_a_broken_download_is_found(
    hook, magic, order, contents, answers, tmp_path, kind
):
    project_id = order(4 * MIB, video_checksum=kind)
    (content,) = contents(project_id)
    magic.control.faults([{**CLIPS, "truncate": MIB, "times": 1}, {**CLIPS, "flip": IN_PADDING, "times": 1}])
    answers()
    assert hook.download(project_id, f"{tmp_path}/")["sha256"] == sha256(content)
    assert answers() == {200: 2, 206: 1}


@pytest.mark.parametrize("kind", CERTAIN)
@pytest.mark.parametrize("old", [None, b"what stood there before"])
def test_a_bit_that_stays_flipped_is_never_published(hook, magic, order, answers, tmp_path, kind, old):
    target = tmp_path / "clip.mp4"
    if old is not None:
        target.write_bytes(old)
    project_id = order(4 * MIB, video_checksum=kind)
    magic.control.faults([{**CLIPS, "flip": IN_PADDING}])
    with pytest.raises(errors.DownloadError) as failed:
        hook.download(project_id, str(target), if_exists="overwrite")
    assert failed.value.retryable
    assert names_in(tmp_path) == ([] if old is None else ["clip.mp4"])
    assert old is None or target.read_bytes() == old


def test_bits_that_are_wrong_in_another_place_each_time_are_never_published(hook, magic, order, tmp_path):
    project_id = order(4 * MIB, video_checksum="etag-md5")
    magic.control.faults([{**CLIPS, "flip": IN_PADDING + step, "times": 1} for step in range(3)])
    with pytest.raises(errors.DownloadError):
        hook.download(project_id, f"{tmp_path}/")
    assert names_in(tmp_path) == []


def test_a_tag_that_only_looks_like_a_checksum_is_none_where_two_downloads_agree(
    hook, magic, order, contents, answers, tmp_path
):
    project_id = order(4 * MIB, video_checksum="etag-md5")
    (content,) = contents(project_id)
    magic.control.faults([{**CLIPS, "flip": IN_PADDING}])
    answers()
    landed = hook.download(project_id, f"{tmp_path}/")
    assert landed["sha256"] == sha256(flipped(content, IN_PADDING))
    assert answers() == {200: 2}


# --- several clips of one project


@pytest.mark.parametrize(
    ("path", "file_name", "names"),
    [
        ("", "{project_id}.mp4", ["{id}.mp4", "{id}-2.mp4", "{id}-3.mp4"]),
        ("", "{index}-{name}-{project_id}.mp4", ["1-A_cat-{id}.mp4", "2-A_cat-{id}.mp4", "3-A_cat-{id}.mp4"]),
        ("", "{project_id}{{index}}", ["{id}{{index}}", "{id}{{index}}-2", "{id}{{index}}-3"]),
        ("clip.mp4", "{project_id}.mp4", ["clip.mp4", "clip-2.mp4", "clip-3.mp4"]),
    ],
)
@pytest.mark.parametrize("if_exists", ["skip", "overwrite", "fail"])
def test_all_clips_of_a_project_land_under_names_of_their_own(
    hook, order, contents, tmp_path, path, file_name, names, if_exists
):
    project_id = order(downloads_per_job=3, name="A cat!")
    wanted = contents(project_id)
    assert len(set(wanted)) == 3
    result = hook.download(project_id, f"{tmp_path}/{path}", file_name=file_name, if_exists=if_exists)
    named = [name.format(id=project_id) for name in names]
    assert [Path(clip["path"]).name for clip in result["clips"]] == named
    assert [Path(clip["path"]).read_bytes() for clip in result["clips"]] == wanted
    assert result == {**result["clips"][0], "clips": result["clips"]}
    assert names_in(tmp_path) == sorted(named)
    assert json.loads(json.dumps(result)) == result


def test_each_of_several_clips_is_taken_up_where_it_breaks(hook, magic, order, contents, answers, tmp_path):
    project_id = order(4 * MIB, downloads_per_job=2)
    wanted = contents(project_id)
    magic.control.faults([{**CLIPS, "truncate": 2 * MIB}])
    answers()
    result = hook.download(project_id, f"{tmp_path}/")
    assert [clip["sha256"] for clip in result["clips"]] == [sha256(content) for content in wanted]
    assert answers() == {200: 2, 206: 4}


def test_the_right_one_of_several_links_is_asked_for_anew(hook, magic, order, contents, answers, tmp_path):
    project_id = order(4 * MIB, downloads_per_job=2)
    wanted = contents(project_id)
    second = {**CLIPS, "path": "*/2/output.mp4", "times": 1}
    magic.control.faults([{**second, "truncate": MIB}, {**second, "status": 403}])
    answers()
    result = hook.download(project_id, f"{tmp_path}/")
    assert [clip["sha256"] for clip in result["clips"]] == [sha256(content) for content in wanted]
    assert answers() == {200: 2, 403: 1, 206: 1}


# --- what stands under the name already


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["", "clip.mp4"])
def test_skip_takes_the_same_clip_as_it_is(hook, order, tmp_path, kind, path):
    project_id = order(4 * MIB, video_checksum=kind)
    first = hook.download(project_id, f"{tmp_path}/{path}")
    written = Path(first["path"]).stat()
    assert hook.download(project_id, f"{tmp_path}/{path}") == first
    again = Path(first["path"]).stat()
    assert (again.st_ino, again.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert len(names_in(tmp_path)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_skip_refuses_another_clip_of_the_same_length_under_a_fixed_name(hook, order, tmp_path, kind):
    project_id = order(4 * MIB, video_checksum=kind)
    target = tmp_path / "clip.mp4"
    hook.download(project_id, str(target))
    other = flipped(target.read_bytes(), IN_PADDING)
    target.write_bytes(other)
    with pytest.raises(errors.DestinationError, match="holds another clip") as failed:
        hook.download(project_id, str(target))
    assert not failed.value.retryable
    assert target.read_bytes() == other
    assert names_in(tmp_path) == ["clip.mp4"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_skip_refuses_a_damaged_copy_under_the_projects_own_name(hook, order, tmp_path, kind):
    project_id = order(4 * MIB, video_checksum=kind)
    target = Path(hook.download(project_id, f"{tmp_path}/")["path"])
    target.write_bytes(flipped(target.read_bytes(), IN_PADDING))
    with pytest.raises(errors.DestinationError, match="holds another clip"):
        hook.download(project_id, f"{tmp_path}/")


@pytest.mark.parametrize("kind", ["none", "etag-md5"])
def test_skip_refuses_a_clip_of_another_length_under_the_projects_own_name(hook, order, tmp_path, kind):
    project_id, other_id = order(video_checksum=kind), order(MIB, video_checksum=kind)
    hook.download(other_id, f"{tmp_path}/{project_id}.mp4")
    with pytest.raises(errors.DestinationError, match="holds another clip"):
        hook.download(project_id, f"{tmp_path}/")


def test_skip_takes_a_clip_whose_tag_only_looks_like_a_checksum(hook, magic, order, tmp_path):
    project_id = order(4 * MIB, video_checksum="etag-md5")
    magic.control.faults([{**CLIPS, "flip": IN_PADDING}])
    first = hook.download(project_id, f"{tmp_path}/clip.mp4")
    assert hook.download(project_id, f"{tmp_path}/clip.mp4") == first


@pytest.mark.parametrize("status", [403, 503])
def test_skip_asks_a_storage_in_trouble_again(hook, magic, order, tmp_path, status):
    project_id = order()
    first = hook.download(project_id, f"{tmp_path}/")
    magic.control.faults([{**CLIPS, "status": status, "times": 4}])
    assert hook.download(project_id, f"{tmp_path}/") == first


def test_skip_refuses_half_a_clip_that_something_else_left_there(hook, order, tmp_path):
    project_id = order()
    target = Path(hook.download(project_id, f"{tmp_path}/")["path"])
    half = target.read_bytes()[:5000]
    target.write_bytes(half)
    with pytest.raises(errors.DestinationError, match="exists already"):
        hook.download(project_id, f"{tmp_path}/")
    assert target.read_bytes() == half


@pytest.mark.parametrize("same", [True, False])
def test_fail_refuses_the_same_clip_and_another(hook, order, tmp_path, same):
    project_id = order()
    target = tmp_path / "clip.mp4"
    hook.download(project_id, str(target))
    before = target.read_bytes()
    with pytest.raises(errors.DestinationError, match="exists already"):
        hook.download(project_id if same else order(), str(target), if_exists="fail")
    assert target.read_bytes() == before
    assert names_in(tmp_path) == ["clip.mp4"]


def test_overwrite_replaces_another_clip(hook, order, contents, tmp_path):
    target = tmp_path / "clip.mp4"
    hook.download(order(), str(target))
    project_id = order(MIB)
    assert hook.download(project_id, str(target), if_exists="overwrite")["size"] > MIB
    assert [target.read_bytes()] == contents(project_id)
    assert names_in(tmp_path) == ["clip.mp4"]


# --- removing the clip at Magic Hour


def is_there(hook, project_id):
    try:
        return hook.get_video(project_id).enabled
    except errors.NotFoundError:
        return False


@pytest.mark.parametrize("deleted", ["disabled", "not_found"])
@pytest.mark.parametrize(("path", "again_is_known"), [("", True), ("clip.mp4", False)])
def test_the_clip_is_removed_at_magic_hour_once_it_has_landed(
    hook, order, tmp_path, deleted, path, again_is_known
):
    project_id = order(deleted=deleted, downloads_per_job=2)
    first = hook.download(project_id, f"{tmp_path}/{path}", delete_remote=True)
    assert not is_there(hook, project_id)
    assert len(first["clips"]) == len(names_in(tmp_path)) == 2
    if again_is_known:
        assert hook.download(project_id, f"{tmp_path}/{path}", delete_remote=True) == first
        return
    with pytest.raises((errors.JobDeletedError, errors.NotFoundError)):
        hook.download(project_id, f"{tmp_path}/{path}", delete_remote=True)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "replace"])
def test_nothing_is_removed_unless_every_clip_is_read_back_as_it_landed(hook, order, tmp_path, number, harm):
    project_id = order(4 * MIB, downloads_per_job=2)
    result = hook.download(project_id, f"{tmp_path}/")
    path = Path(result["clips"][number]["path"])
    content = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        other = Path(result["clips"][1 - number]["path"]).read_bytes()
        path.write_bytes({"flip": flipped(content, IN_PADDING), "cut": content[:-1], "replace": other}[harm])
    with pytest.raises(errors.TransferError, match="read back"):
        hook.delete_after_verify(result)
    assert is_there(hook, project_id)
    path.write_bytes(content)
    hook.delete_after_verify(result)
    assert not is_there(hook, project_id)
    hook.delete_after_verify(result)


def test_a_removal_that_fails_is_tried_again_by_the_next_try(hook, magic, order, tmp_path):
    project_id = order()
    magic.control.faults([{"method": "DELETE", "path": "/v1/video-projects/*", "status": 403}])
    with pytest.raises(errors.MagicHourError):
        hook.download(project_id, f"{tmp_path}/", delete_remote=True)
    assert is_there(hook, project_id)
    magic.control.faults([])
    hook.download(project_id, f"{tmp_path}/", delete_remote=True)
    assert not is_there(hook, project_id)


class Store(dict):
    """Of Airflow's task state store, what a task uses; JSON goes through it."""

    def set(self, key, value, retention=None):
        self[key] = json.dumps(value)

    def get(self, key):
        return json.loads(self[key]) if key in self else None


def run(context, project_id, path, **options):
    """A try of the operator, whose end nobody sees: as a kill after its last step does."""
    task = DownloadVideoOperator(
        task_id="land", project_id=project_id, path=str(path), delete_remote=True, **options
    )
    return task.execute(context)


@pytest.mark.parametrize("deleted", ["disabled", "not_found"])
@pytest.mark.parametrize("if_exists", ["skip", "overwrite", "fail"])
@pytest.mark.parametrize("path", ["", "clip.mp4"])
def test_a_try_killed_between_removal_and_success_is_followed_by_one_that_succeeds(
    hook, order, tmp_path, deleted, if_exists, path
):
    project_id = order(deleted=deleted, downloads_per_job=2, name="A cat")
    context = {"task_state_store": Store()}
    options = {"if_exists": if_exists, "file_name": "{name}-{project_id}.mp4"}
    first = run(context, project_id, f"{tmp_path}/{path}", **options)
    assert not is_there(hook, project_id)
    assert len(first["clips"]) == 2
    for _ in range(2):
        assert run(context, project_id, f"{tmp_path}/{path}", **options) == first


def test_a_try_killed_before_the_removal_is_followed_by_one_that_removes(hook, magic, order, tmp_path):
    project_id = order()
    context = {"task_state_store": Store()}
    magic.control.faults([{"method": "DELETE", "path": "/v1/video-projects/*", "status": 403}])
    with pytest.raises(errors.MagicHourError):
        run(context, project_id, tmp_path / "clip.mp4")
    magic.control.faults([])
    run(context, project_id, tmp_path / "clip.mp4")
    assert not is_there(hook, project_id)


def test_a_record_of_other_arguments_is_not_taken(hook, order, tmp_path):
    project_id = order()
    context = {"task_state_store": Store()}
    run(context, project_id, tmp_path / "clip.mp4")
    with pytest.raises(errors.JobDeletedError):
        run(context, project_id, tmp_path / "other.mp4")
    with pytest.raises(errors.JobDeletedError):
        run({"task_state_store": Store()}, project_id, tmp_path / "clip.mp4")
    assert names_in(tmp_path) == ["clip.mp4"]


def test_a_record_of_a_file_that_is_gone_is_no_success(hook, order, tmp_path):
    project_id = order()
    context = {"task_state_store": Store()}
    Path(run(context, project_id, tmp_path / "clip.mp4")["path"]).unlink()
    with pytest.raises(errors.TransferError, match="read back"):
        run(context, project_id, tmp_path / "clip.mp4")


@pytest.mark.parametrize(
    ("file_name", "says"),
    [("clip.mp4", "project_id"), ("../{project_id}", "no slash"), ("{project_id}{x}", "may hold")],
)
def test_a_template_that_cannot_be_used_is_said_before_anything_is_asked(
    hook, magic, order, tmp_path, file_name, says
):
    project_id = order()
    before = magic.control.state()["requests"]
    with pytest.raises(errors.DestinationError, match=says):
        hook.download(project_id, f"{tmp_path}/", file_name=file_name)
    assert [entry for entry in magic.control.state()["requests"] if entry not in before] == []
