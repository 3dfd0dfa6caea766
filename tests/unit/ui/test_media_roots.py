"""What a path means below the roots that are set, before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from magichour_provider.exceptions import ConfigurationError
from magichour_provider.storage.locations import ObjectPath
from magichour_provider.storage.locations import resolve_target
from magichour_provider.ui.media_files import MediaRefusedError, authorize, parse_roots

SHARED = "/data/clips"
PER_DAG = "/data/clips/{dag_id}"
BUCKET = "s3://store@clips/finished/{dag_id}/"


def place_of(path, roots, *, dag_id="a_dag", rendered_path=None):
    """The place that is admitted; None where it is refused."""
    try:
        held = authorize(path, dag_id=dag_id, rendered_path=rendered_path, roots=parse_roots(roots))
    except MediaRefusedError:
        return None
    return held.location


# --- the setting


def test_nothing_set_is_no_root():
    assert parse_roots("") == parse_roots(" , ,") == ()


def test_roots_are_folders_and_object_storage_apart_by_commas():
    one, two, three, four = parse_roots(f"{SHARED}/, file:///srv/my%20clips , {BUCKET},gs://google@clips")
    assert (one.location, one.is_per_dag) == (Path(SHARED), False)
    assert (two.location, two.is_per_dag) == (Path("/srv/my clips"), False)
    assert (three.location, three.is_per_dag) == (
        ObjectPath("s3", "s3://clips/finished/{dag_id}", "store"),
        True,
    )
    assert (four.location, four.is_per_dag) == (ObjectPath("gs", "gs://clips", "google"), False)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("clips", "absolute"),
        ("./clips", "absolute"),
        ("~/clips", "absolute"),
        ("{dag_id}", "absolute"),
        ("/", "must name a folder"),
        ("file:///", "must name a folder"),
        ("file://host/clips", "three slashes"),
        ("s3://", "must name a folder, or a bucket"),
        ("s3://store@", "must name a folder, or a bucket"),
        ("s3://store@/clips/", "must name a folder, or a bucket"),
        ("http://host/clips/", "not web addresses"),
        ("HTTPS://host/clips/", "not web addresses"),
        ("/data/{run_id}", "only placeholder"),
        ("/data/{}", "only placeholder"),
        ("/data/{dag_id", "only placeholder"),
        ("/data/{{dag_id}}", "only placeholder"),
        ("{dag_id}://clips/a", "absolute"),
        ("s3://{dag_id}@clips/a", "id of an Airflow connection"),
        ("s3://{dag_id}/a", "must be below"),
        ("s3://store@{dag_id}-clips/a", "must be below"),
        ("/{dag_id}/", "must be below"),
        ("/{dag_id}", "must be below"),
        ("file:///{dag_id}", "must be below"),
        ("/data/../etc", "empty parts"),
        ("s3://clips/a/../b", "empty parts"),
        ("s3://clips/./b", "empty parts"),
        ("s3://clips//b", "empty parts"),
        ("s3://clips/b//", "empty parts"),
        ("/data/\0clips", "empty parts"),
        ("s3://key:secret@clips/a", "id of an Airflow connection"),
    ],
)
def test_what_cannot_be_a_root_is_an_error_that_says_why(entry, why):
    with pytest.raises(ConfigurationError, match=why) as raised:
        parse_roots(f"/fine, {entry}")
    assert "[magichour] ui_video_roots" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "onnection; trying" not in str(raised.value)


# --- rule 1: a path goes down from a root, as it is spelled


@pytest.mark.parametrize(
    "path", ["/data/clips/a_dag/x.mp4", "/data/clips/a_dag/2026/b c/\u732b%2e+#.mp4", "/data/clips/a_dag/..x"]
)
def test_a_clip_below_a_root_is_held(path):
    assert place_of(path, PER_DAG) == Path(path)


@pytest.mark.parametrize("key", ["x.mp4", "a/b c/\u732b%2e+#.mp4", "[a]*.mp4", "..x"])
def test_an_object_below_a_root_is_held_and_reached_by_the_roots_connection(key):
    url = f"s3://clips/finished/a_dag/{key}"
    assert place_of(url, BUCKET) == ObjectPath("s3", url, "store")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/data/clips/a_dag",
        "/data/clips/a_dag/",
        "/data/clips/a_dag/x.mp4/",
        "/data/clips/a_dag/../b_dag/x.mp4",
        "/data/clips/a_dag/x/../../../../etc/passwd",
        "/data/clips/a_dag/..",
        "/data/clips/a_dag/./x.mp4",
        "/data/clips/a_dag//x.mp4",
        "/data/clips/a_dag//etc/passwd",
        "//data/clips/a_dag/x.mp4",
        "/data/./clips/a_dag/x.mp4",
        "/data/clips/../clips/a_dag/x.mp4",
        "/data/clips/a_dag-secret/x.mp4",
        "/data/clips/a_dagx.mp4",
        "/data/clips/A_DAG/x.mp4",
        "/Data/clips/a_dag/x.mp4",
        "/data/clips/b_dag/x.mp4",
        "/data/clips/{dag_id}/x.mp4",
        "/data/clips/*/x.mp4",
        "/etc/passwd",
        "data/clips/a_dag/x.mp4",
        "clips/a_dag/x.mp4",
        "~/x.mp4",
        "~root/x.mp4",
        "/data/clips/a_dag/x\0.mp4",
        "/data/clips/a_dag/x.mp4\n",
        "/data/clips/a_dag/\ud800.mp4",
        "/data/clips%2Fa_dag/x.mp4",
        "/data/clips/a_dag%2Fx.mp4",
        "file:///data/clips/a_dag/x.mp4",
        "file:/data/clips/a_dag/x.mp4",
        "FILE:///data/clips/a_dag/x.mp4",
        "local:///data/clips/a_dag/x.mp4",
        "file:///data/clips/a_dag/%2e%2e/b_dag/x.mp4",
        "http://127.0.0.1/data/clips/a_dag/x.mp4",
        "s3://data/clips/a_dag/x.mp4",
        " /data/clips/a_dag/x.mp4",
    ],
)
def test_any_other_path_is_refused(path):
    assert place_of(path, PER_DAG, rendered_path=path) is None


@pytest.mark.parametrize(
    "url",
    [
        "s3://clips/finished/a_dag",
        "s3://clips/finished/a_dag/",
        "s3://clips/finished/a_dag/../b_dag/x.mp4",
        "s3://clips/finished/a_dag/..",
        "s3://clips/finished/a_dag/./x.mp4",
        "s3://clips/finished/a_dag//x.mp4",
        "s3://clips/finished/a_dag/x.mp4\0",
        "s3://clips/finished/a_dag-secret/x.mp4",
        "s3://clips/finished/A_DAG/x.mp4",
        "s3://clips/finished/b_dag/x.mp4",
        "s3://clips/other/a_dag/x.mp4",
        "s3://clips2/finished/a_dag/x.mp4",
        "s3://Clips/finished/a_dag/x.mp4",
        "S3://clips/finished/a_dag/x.mp4",
        "s3a://clips/finished/a_dag/x.mp4",
        "gs://clips/finished/a_dag/x.mp4",
        "https://clips/finished/a_dag/x.mp4",
        "https://clips.s3.amazonaws.com/finished/a_dag/x.mp4",
        "file:///clips/finished/a_dag/x.mp4",
        "s3://store@clips/finished/a_dag/x.mp4",
        "s3://admin@clips/finished/a_dag/x.mp4",
        "s3://key:secret@clips/finished/a_dag/x.mp4",
        "s3:///clips/finished/a_dag/x.mp4",
        "s3:/clips/finished/a_dag/x.mp4",
        "clips/finished/a_dag/x.mp4",
        "s3://clips/finished/a_dag/x.mp4?versionId=1",
        "s3://clips\\finished\\a_dag\\x.mp4",
        "file://s3://clips/finished/a_dag/x.mp4",
        "simplecache::s3://clips/finished/a_dag/x.mp4",
    ],
)
def test_any_other_url_is_refused(url):
    assert place_of(url, BUCKET, rendered_path=url) is None


@pytest.mark.parametrize(
    "path", [None, 7, b"/data/clips/a_dag/x.mp4", ["/data/clips/a_dag/x.mp4"], {"path": "/data/clips"}]
)
def test_what_is_no_text_is_refused(path):
    assert place_of(path, PER_DAG, rendered_path=path) is None


@pytest.mark.parametrize(
    ("dag_id", "path"),
    [
        ("..", "/data/x.mp4"),
        ("..", "/data/clips/../x.mp4"),
        (".", "/data/clips/./x.mp4"),
        (".", "/data/clips/x.mp4"),
        ("", "/data/clips/x.mp4"),
        ("", "/data/clips//x.mp4"),
        ("a/b", "/data/clips/a/b/x.mp4"),
        ("a/../b", "/data/clips/b/x.mp4"),
        ("/etc", "/etc/x.mp4"),
        ("*", "/data/clips/*/x.mp4"),
        ("*", "/data/clips/b_dag/x.mp4"),
        ("[ab]_dag", "/data/clips/[ab]_dag/x.mp4"),
        ("a?dag", "/data/clips/a?dag/x.mp4"),
        ("a_dag\n", "/data/clips/a_dag\n/x.mp4"),
        ("{dag_id}", "/data/clips/{dag_id}/x.mp4"),
        ("%2e%2e", "/data/clips/%2e%2e/x.mp4"),
    ],
)
def test_the_id_of_a_dag_is_one_part_of_a_path_or_refused(dag_id, path):
    assert place_of(path, PER_DAG, dag_id=dag_id) is None


@pytest.mark.parametrize("dag_id", ["a", "a.b-c_d", "\u732b", "..a", "A"])
def test_any_id_that_airflow_takes_and_that_names_a_folder_is_good(dag_id):
    path = f"/data/clips/{dag_id}/x.mp4"
    assert place_of(path, PER_DAG, dag_id=dag_id) == Path(path)


def test_the_id_may_be_a_piece_of_a_part_and_stand_there_twice():
    root = "/data/clips-of-{dag_id}/{dag_id}"
    path = "/data/clips-of-a/a/x.mp4"
    assert place_of(path, root, dag_id="a") == Path(path)
    assert place_of(path, root, dag_id="b") is None
    assert place_of("/data/clips-of-a/b/x.mp4", root, dag_id="a") is None


def test_without_roots_nothing_is_held_and_the_refusal_names_the_setting_and_not_the_path():
    with pytest.raises(MediaRefusedError, match=r"\[magichour\] ui_video_roots") as refused:
        authorize("/etc/passwd", dag_id="a_dag", rendered_path="/etc/passwd", roots=())
    assert "passwd" not in str(refused.value)


# --- rule 2: something that cannot be forged vouches for it


def test_a_root_with_the_dags_id_needs_no_rendered_field():
    path = "/data/clips/a_dag/x.mp4"
    assert place_of(path, PER_DAG, rendered_path=None) == Path(path)
    assert place_of(path, PER_DAG, rendered_path="/elsewhere/") == Path(path)


def test_under_a_shared_root_the_rendered_field_vouches_or_the_refusal_says_what_is_missing():
    path, roots = "/data/clips/x.mp4", parse_roots(SHARED)
    assert place_of(path, SHARED, rendered_path="/data/clips/") == Path(path)
    with pytest.raises(MediaRefusedError, match="max_num_rendered_ti_fields_per_task") as gone:
        authorize(path, dag_id="a_dag", rendered_path=None, roots=roots)
    with pytest.raises(MediaRefusedError, match="rendered field `path`") as told_otherwise:
        authorize(path, dag_id="a_dag", rendered_path="/data/other/", roots=roots)
    for refused in (gone, told_otherwise):
        assert "{dag_id}" in str(refused.value)
        assert "[magichour] ui_video_roots" in str(refused.value)


@pytest.mark.parametrize(
    "rendered_path",
    [
        "/data/clips/x.mp4",
        "/data/clips",
        "/data/clips/",
        "/data//clips/./",
        "file:///data/clips/",
        "file:///data/clips/x.mp4",
    ],
)
def test_a_clip_lies_in_the_folder_or_is_the_file_that_the_task_was_told(rendered_path):
    assert place_of("/data/clips/x.mp4", SHARED, rendered_path=rendered_path) is not None


@pytest.mark.parametrize(
    "rendered_path",
    [
        "",
        "None",
        "***",
        "/",
        "/data/",
        "/data/clips/y.mp4",
        "/data/clips/x",
        "/data/clips/sub/",
        "/data/clips/sub/../",
        "/data/clip",
        "/data/clips-2/",
        "/other/x.mp4",
        "clips/",
        "./",
        "~nobody-of-that-name/",
        "file://host/data/clips/",
        "s3://data/clips/",
        ["/data/clips/"],
        7,
    ],
)
def test_no_other_rendered_field_vouches(rendered_path):
    assert place_of("/data/clips/x.mp4", SHARED, rendered_path=rendered_path) is None


def test_a_rendered_field_vouches_for_nothing_outside_the_roots():
    assert place_of("/etc/x.mp4", SHARED, rendered_path="/etc/") is None
    assert place_of("/data/clips-secret/x.mp4", SHARED, rendered_path="/data/clips-secret/") is None


def test_a_rendered_folder_vouches_only_for_what_lies_directly_in_it():
    assert place_of("/data/clips/other/x.mp4", SHARED, rendered_path="/data/clips/") is None


@pytest.mark.parametrize("rendered_path", ["s3://any@clips/a/", "s3://clips/a", "S3://any@clips/a/x.mp4"])
def test_a_rendered_url_vouches_whatever_connection_it_names(rendered_path):
    place = place_of("s3://clips/a/x.mp4", "s3://store@clips", rendered_path=rendered_path)
    assert place == ObjectPath("s3", "s3://clips/a/x.mp4", "store")


@pytest.mark.parametrize("rendered_path", ["s3a://clips/a/", "s3://clips2/a/", "gs://clips/a/", "/clips/a/"])
def test_a_rendered_url_of_another_store_does_not_vouch(rendered_path):
    assert place_of("s3://clips/a/x.mp4", "s3://store@clips", rendered_path=rendered_path) is None


def test_a_shared_root_gives_way_to_one_of_the_dags_own():
    path = "/data/clips/a_dag/x.mp4"
    assert place_of(path, f"{SHARED},{PER_DAG}") == place_of(path, f"{PER_DAG},{SHARED}") == Path(path)
    assert place_of(path, f"{SHARED},{PER_DAG}", dag_id="b_dag") is None


@pytest.mark.parametrize("told", ["/data/clips/", "/data/clips/x.mp4", "/data/clips/x", "/data/clips/.mp4"])
@pytest.mark.parametrize("index", [1, 2, 11])
def test_every_clip_of_a_project_and_its_poster_is_vouched_for(told, index):
    from magichour_provider.storage.posters import beside

    landed = resolve_target(told, "p1", index=index).path
    assert place_of(landed, SHARED, rendered_path=told) == Path(landed)
    assert place_of(beside(landed), SHARED, rendered_path=told) is not None


@pytest.mark.parametrize(
    "name", ["x-y.mp4", "x-2.mov", "xx.mp4", "x.mp4.mp4", "x-2-y.jpg", "x.png", "-2.mp4", "Xx.mp4", "x_mp4"]
)
def test_a_rendered_file_vouches_for_no_other_name(name):
    assert place_of(f"/data/clips/{name}", SHARED, rendered_path="/data/clips/x.mp4") is None


def test_a_rendered_name_is_no_pattern():
    assert place_of("/data/clips/xzy.mp4", SHARED, rendered_path="/data/clips/x.y.mp4") is None
    assert place_of("/data/clips/a.mp4", SHARED, rendered_path="/data/clips/.*.mp4") is None


def test_a_folder_that_is_written_as_one_vouches_for_nothing_beside_it():
    assert place_of("/data/clips/sub-2", SHARED, rendered_path="/data/clips/sub/") is None
