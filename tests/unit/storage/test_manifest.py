"""Manifests of a batch: what is read, and which faults are named with which line."""

from __future__ import annotations

import json

import pytest

from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.jobs.batch_items import read_items
from magichour_provider.storage.manifest import Manifest, write_results
from magichour_provider.storage.targets import Target

DEFAULTS = {"end_seconds": 3, "model": "ltx-2.3", "resolution": "480p"}


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_is_read_by_its_header(tmp_path, delimiter):
    rows = [
        ["key", "image", "prompt"],
        ["a", "a.png", ""],
        ["b", "b.png", '"two\nlines"'],
        [],
        ["c", "c.png", "x"],
    ]
    text = "\ufeff" + "\r\n".join(delimiter.join(row) for row in rows)
    manifest = Manifest(written(tmp_path, "a.csv", text))
    assert manifest.faults == []
    assert [(row.where, row.values["key"], row.values["prompt"]) for row in manifest.rows] == [
        ("line 2", "a", None),
        ("line 3", "b", "two\nlines"),
        ("line 6", "c", "x"),
    ]


def test_faults_of_csv_name_their_lines(tmp_path):
    manifest = Manifest(written(tmp_path, "a.csv", 'key,image\na,a.png\nb\nc,"c.png\n'))
    assert [row.where for row in manifest.rows] == ["line 2"]
    assert [fault.partition(":")[0] for fault in manifest.faults] == ["line 3", "line 4"]
    (fault,) = Manifest(written(tmp_path, "b.csv", "key,key\na,b\n")).faults
    assert fault.startswith("line 1: the header")


def test_faults_of_jsonl_name_their_lines(tmp_path):
    text = '\n{"image": "a.png"}\n{"image": \n"text"\n[1]\nnull\n{"image": "b.png"}'
    manifest = Manifest(written(tmp_path, "a.jsonl", text))
    assert [row.where for row in manifest.rows] == ["line 2", "line 7"]
    assert [fault.partition(":")[0] for fault in manifest.faults] == ["line 3", "line 4", "line 5", "line 6"]


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.txt", "", "ends in .jsonl or .csv"),
        ("a.jsonl", b'{"image": "a"}\n\xff\xfe', "not in UTF-8: see line 2"),
        ("missing/a.csv", None, "does not exist"),
    ],
)
def test_file_that_is_no_manifest_is_refused(tmp_path, name, text, what):
    path = str(tmp_path / name) if text is None else written(tmp_path, name, text)
    with pytest.raises(InvalidRequestError, match=what):
        Manifest(path)


def test_list_is_read_and_its_faults_numbered():
    manifest = Manifest([{"image": "a.png"}, "text", 5])
    assert [row.where for row in manifest.rows] == ["item 1"]
    assert [fault.partition(":")[0] for fault in manifest.faults] == ["item 2", "item 3"]


def test_relative_image_is_beside_the_manifest(tmp_path, memory_store):
    local = Manifest(written(tmp_path, "a.jsonl", ""))
    assert local.address("b/c.png") == str(tmp_path / "b/c.png")
    memory_store.pipe_file("/bucket/lists/a.jsonl", b"")
    stored = Manifest("memory://bucket/lists/a.jsonl")
    assert stored.address("c.png") == "memory://bucket/lists/c.png"
    for whole in ("/c.png", "s3://b/c.png", "https://example.com/c.png", "api-assets/id/c.png", "~/c.png"):
        assert stored.address(whole) == whole


def test_keys_come_from_the_images_and_are_different():
    rows = [{"image": "a/one.png"}, {"image": "https://example.com/two.jpg?x=1"}, {"image": "b/one.jpg"}]
    items, faults = read_items(rows, None, DEFAULTS)
    assert [item.key for item in items][:2] == ["one", "two"]
    assert items[0].file_name == "one.mp4"
    (fault,) = faults
    assert fault.startswith("item 3: its key 'one' is that of item 1")
    assert [
        item.file_name for item in read_items([{"image": "a.png", "key": "../x"}], None, DEFAULTS)[0]
    ] != ["../x.mp4"]


def test_values_of_an_item_precede_the_defaults():
    (item,), faults = read_items(
        [{"image": "a.png", "end_seconds": "5", "audio": "yes", "prompt": None}],
        None,
        {**DEFAULTS, "prompt": "p"},
    )
    assert not faults
    request = item.request
    assert (request.end_seconds, request.audio, request.prompt, request.name) == (5.0, True, "p", "a")


def test_results_are_written_as_lines(tmp_path):
    target = Target.from_location(tmp_path / "manifest.jsonl")
    write_results(target, [{"key": "ü"}, {"key": "\udc80"}])
    lines = (tmp_path / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["ü", "\udc80"]
