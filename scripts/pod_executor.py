"""An executor that gives each task what a pod of KubernetesExecutor has: its command, and an empty disk.

A pod is a process tree with mounts and process ids of its own, and with a new /tmp, HOME and AIRFLOW_HOME. It
sees no file of another task but those of the volumes (the variable POD_VOLUMES): Dags, logs, and a folder in
place of an object storage. The command is that of the Kubernetes provider. Needs root and util-linux.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from airflow.executors.base_executor import BaseExecutor
from processes import wait_until

_MOUNTS = """
set -e
mount -t tmpfs pod /mnt
n=0; for volume in $POD_VOLUMES; do n=$((n+1)); mkdir /mnt/$n; mount --bind $volume /mnt/$n; done
mount -t tmpfs pod /tmp
n=0; for volume in $POD_VOLUMES; do n=$((n+1)); mkdir -p $volume; mount --bind /mnt/$n $volume; done
mkdir -p "$HOME" "$AIRFLOW_HOME" /tmp/work
cd /tmp/work
exec "$@"
"""
_HOMES = {"HOME": "/tmp/home", "AIRFLOW_HOME": "/tmp/airflow", "TMPDIR": "/tmp"}


class PodExecutor(BaseExecutor):
    """Starts a pod for each workload; POD_RECORDS is the folder of one file for each pod."""

    def start(self) -> None:
        """Begin without pods."""
        self.pods: dict[Any, subprocess.Popen[bytes]] = {}

    def _process_workloads(self, workload_items: Sequence[Any]) -> None:
        for workload in workload_items:
            ti = workload.ti
            self.queued_tasks.pop(ti.key)
            command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
            command += ["sh", "-c", _MOUNTS, "pod", sys.executable]
            command += ["-m", "airflow.sdk.execution_time.execute_workload", "--json-string"]
            command += [workload.model_dump_json()]
            self.pods[ti.key] = subprocess.Popen(command, env=os.environ | _HOMES)
            name = f"{ti.run_id} {ti.task_id} {ti.try_number} "
            with tempfile.NamedTemporaryFile(
                "w", dir=os.environ["POD_RECORDS"], prefix=name, delete=False
            ) as file:
                file.write(str(self.pods[ti.key].pid))

    def sync(self) -> None:
        """Report the pods that have ended."""
        for key, pod in list(self.pods.items()):
            if (code := pod.poll()) is not None:
                del self.pods[key]
                (self.fail if code else self.success)(key)

    def end(self) -> None:
        """End all pods."""
        self.terminate()

    def terminate(self) -> None:
        """End all pods."""
        for pod in self.pods.values():
            pod.kill()


def pods(records: Path, run_id: str, task_id: str) -> list[int]:
    """The process ids of the pods that a task has had, oldest first."""
    paths = sorted(records.glob(f"{run_id} {task_id} *"), key=lambda path: path.stat().st_mtime)
    return [int(path.read_text()) for path in paths]


def is_running(pod: int) -> bool:
    """Whether a pod still runs."""
    try:
        return bool(psutil.Process(pod).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def delete(pod: int, *, grace_seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Delete a pod as Kubernetes does: SIGTERM to its first process, then SIGKILL to all."""
    (first,) = psutil.Process(pod).children()
    first.send_signal(signal.SIGTERM)
    meanwhile()
    wait_until(lambda: not is_running(pod), timeout=grace_seconds)
    if is_running(pod):
        psutil.Process(pod).kill()  # --kill-child takes the others with it
