"""Paths that mean another file on each machine, if the executor runs tasks on several machines."""

from __future__ import annotations

import pytest

from magichour_provider.exceptions import DestinationError, ImageError, InvalidRequestError
from magichour_provider.hooks.magichour import MagicHourHook
from magichour_provider.jobs.state_backends import FileBackend
from magichour_provider.storage.contact_sheets import ListedVideo, make_contact_sheet
from magichour_provider.storage.images import open_image
from magichour_provider.storage.locations import executors_of_several_machines, get_hostname
from magichour_provider.storage.targets import require_shared_target


@pytest.fixture
def celery(monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")


@pytest.mark.parametrize(
    ("executor", "expected"),
    [
        ("LocalExecutor", ""),
        ("airflow.executors.local_executor.LocalExecutor", ""),
        ("quick:airflow.executors.local_executor.LocalExecutor", ""),
        ("CeleryExecutor", "CeleryExecutor"),
        ("LocalExecutor, KubernetesExecutor", "KubernetesExecutor"),
        ("LocalExecutor;one=CeleryExecutor,my.module.EdgeExecutor", "CeleryExecutor, EdgeExecutor"),
    ],
)
def test_executors_of_several_machines(monkeypatch, executor, expected):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    assert executors_of_several_machines() == expected


def test_pod_is_a_machine_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")
    monkeypatch.setenv("AIRFLOW_IS_K8S_EXECUTOR_POD", "True")
    with pytest.raises(InvalidRequestError, match="a container for each task"):
        FileBackend(tmp_path / "a.json")


def test_local_state_path_is_refused_with_the_remedy(celery, tmp_path):
    with pytest.raises(InvalidRequestError) as refused:
        FileBackend(tmp_path / "a.json")
    assert str(refused.value) == (
        f"state_path {tmp_path}/a.json cannot be used: tasks run on several machines (CeleryExecutor), and "
        "this path is on the disk of one of them. No job was created and no credits were spent. Use object "
        "storage. If all workers share the folder, the deployment can say so: [magichour] shared_folders."
    )


def test_state_path_in_a_store_or_on_one_machine_is_taken(monkeypatch, tmp_path):
    FileBackend(tmp_path / "a.json")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    FileBackend("s3://states/a.json")


@pytest.mark.parametrize(
    ("path", "is_shared"),
    [
        ("share/a.json", True),
        ("share/x/a.json", True),
        ("link/a.json", True),
        ("sharex/a.json", False),
        ("share/../a.json", False),
        ("share/out/a.json", False),
    ],
)
def test_folder_that_the_deployment_shares(celery, monkeypatch, tmp_path, path, is_shared):
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "share")
    (tmp_path / "share" / "out").symlink_to(tmp_path)
    monkeypatch.setenv("AIRFLOW__MAGICHOUR__SHARED_FOLDERS", f"/mnt/none, {tmp_path}/share/ ,")
    if is_shared:
        FileBackend(tmp_path / path)
    else:
        with pytest.raises(InvalidRequestError, match="several machines"):
            FileBackend(tmp_path / path)


def test_delete_remote_with_a_local_path_is_refused_before_any_request(celery, tmp_path):
    with pytest.raises(DestinationError, match=r"with delete_remote.*Nothing was downloaded or deleted"):
        MagicHourHook("undefined").download("job1", tmp_path, delete_remote=True)
    require_shared_target("s3://videos/")


def test_missing_image_names_the_machine(celery, tmp_path):
    with pytest.raises(ImageError, match=f"this machine \\({get_hostname()}\\) has no such file.*own disk"):
        open_image(tmp_path / "photo.jpg")


def test_video_of_another_worker_is_named_as_that(tmp_path):
    video = ListedVideo(str(tmp_path / "job1.mp4"), hostname="w1")
    with pytest.raises(Exception, match=r"Worker w1 saved .*job1\.mp4\. This worker \(.*\) has no such file"):
        make_contact_sheet([video], tmp_path / "sheet.jpg")
    with pytest.raises(Exception, match="does not exist"):
        make_contact_sheet([ListedVideo(str(tmp_path / "job1.mp4"), hostname=get_hostname())], tmp_path)
