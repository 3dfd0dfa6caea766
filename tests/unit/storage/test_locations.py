"""Names of clips in a folder: the project's own, told apart, and never outside the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from magichour_provider.exceptions import DestinationError
from magichour_provider.storage.locations import video_file_name
from magichour_provider.storage.locations import resolve_target

EVIL = [
    "../../etc/passwd",
    "..",
    ".",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a\0b",
    "-rf",
    ".hidden",
    "~root",
    "$(reboot)",
    "`reboot`",
    "a;b",
    "a\nb",
    "a\u202eb",
    "a\u2215b",
    "{name}",
    "{0.__class__}",
    "\udcff",
    " ",
    "x" * 5000,
    "\N{GRINNING FACE}" * 100,
]


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("template", ["{project_id}.mp4", "{name}-{project_id}.mp4", "{name}{project_id}"])
def test_neither_id_nor_name_leave_the_folder_or_hide_the_file(tmp_path, template, evil):
    for project_id, name in ((evil, "a name"), ("p1", evil), (evil, evil)):
        target = resolve_target(f"{tmp_path}/", project_id, file_name=template, name=name)
        path = target.place
        assert isinstance(path, Path)
        assert path.parent == tmp_path
        assert not path.name.startswith((".", "-"))
        assert not set(path.name) & set("/\\\0\n$`;\u202e{} ")
        path.write_bytes(b"")
        assert path.exists()


def test_ids_that_are_made_safe_stay_apart():
    names = {video_file_name(evil) for evil in ("a/b", "a_b", "a\\b", "a b", "x" * 121, "x" * 120, "x" * 122)}
    assert len(names) == 7


@pytest.mark.parametrize(
    ("template", "name", "made"),
    [
        ("{project_id}.mp4", None, "p1.mp4"),
        ("{name}-{project_id}.mp4", "My cat, asleep!", "My_cat_asleep-p1.mp4"),
        ("{name}-{project_id}.mp4", None, "clip-p1.mp4"),
        ("{name}-{project_id}.mp4", "../..", "clip-p1.mp4"),
        (
            "{name}-{project_id}.mp4",
            "\u732b \u043a\u043e\u0442 \xe9t\xe9",
            "\u732b_\u043a\u043e\u0442_\xe9t\xe9-p1.mp4",
        ),
        ("v1.{project_id}.{index}.mp4", None, "v1.p1.1.mp4"),
        ("{{{project_id}}}.mp4", None, "{p1}.mp4"),
        ("{project_id}", None, "p1"),
        ("{name}{project_id}.mp4", "-x", "_xp1.mp4"),
    ],
)
def test_a_template_names_the_clip(template, name, made):
    assert video_file_name("p1", template=template, name=name) == made


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("{project_id}.mp4", ["p1.mp4", "p1-2.mp4", "p1-3.mp4"]),
        ("{project_id}", ["p1", "p1-2", "p1-3"]),
        ("{index}-{project_id}.mp4", ["1-p1.mp4", "2-p1.mp4", "3-p1.mp4"]),
        ("{project_id}{{index}}.mp4", ["p1{index}.mp4", "p1{index}-2.mp4", "p1{index}-3.mp4"]),
        ("{project_id}.a.mp4", ["p1.a.mp4", "p1.a-2.mp4", "p1.a-3.mp4"]),
    ],
)
def test_the_clips_of_one_project_have_names_of_their_own(template, made):
    assert [video_file_name("p1", template=template, index=index) for index in (1, 2, 3)] == made


def test_a_fixed_name_has_others_beside_it(tmp_path):
    paths = [Path(resolve_target(f"{tmp_path}/clip.mp4", "p1", index=index).path).name for index in (1, 2)]
    assert paths == ["clip.mp4", "clip-2.mp4"]
    assert resolve_target("s3://bucket/a.b/clip.mp4", "p1", index=2).path == "s3://bucket/a.b/clip-2.mp4"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("clip.mp4", "no {project_id}"),
        ("", "no {project_id}"),
        ("{name}-{index}.mp4", "no {project_id}"),
        ("{{project_id}}.mp4", "no {project_id}"),
        ("{project_id}/{name}.mp4", "no slash"),
        ("../{project_id}.mp4", "no slash"),
        ("{project_id}\\x", "no slash"),
        (".{project_id}.mp4", "no dot"),
        ("{project_id}\0", "no slash"),
        ("{project_id", "cannot be read"),
        ("{project_id}}.mp4", "cannot be read"),
        ("{projectid}.mp4", "may hold"),
        ("{}{project_id}", "may hold"),
        ("{0}{project_id}", "may hold"),
        ("{project_id.__class__}", "may hold"),
        ("{project_id!r}", "may hold"),
        ("{project_id:>9999999999}", "may hold"),
        ("{project_id}{index:09}", "may hold"),
        ("{project_id}" + "x" * 250, "250 bytes"),
        ("\xe9" * 125 + "{project_id}", "250 bytes"),
        ("\udcff{project_id}", "surrogates"),
    ],
)
def test_a_template_that_cannot_name_clips_is_refused(tmp_path, template, says):
    with pytest.raises(DestinationError, match=says) as caught:
        resolve_target(f"{tmp_path}/", "p1", file_name=template)
    assert not caught.value.retryable


def test_the_longest_name_still_fits_with_its_number_and_its_temporary_one(tmp_path):
    from magichour_provider.storage.publish import temporary_name

    template = "{project_id}" + "x" * 126 + ".mp4"
    made = video_file_name("p" * 120, template=template, index=100)
    assert len(made) == 254
    (tmp_path / made).touch()
    (tmp_path / temporary_name("\N{GRINNING FACE}" * 60)).touch()
