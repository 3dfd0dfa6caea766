"""Downloads videos in processes that can be killed: a loaded process forks one for each download.

Reads lines of JSON from stdin, the arguments of `MagicHourHook.download`; writes the pid of the process that
carries each out. `after` is a project to save before, so that what is made once is there. `{"wait": pid}`
writes how it ended: 0 for a saved video.
"""

from __future__ import annotations

import json
import os
import sys
import traceback


def warm_up() -> None:
    """Load what a download loads, so that little but the download itself happens afterwards."""
    import magichour_provider.client.downloads
    import magichour_provider.storage.download  # noqa: F401

    if "AIRFLOW_CONN_S3" in os.environ:
        import s3fs  # noqa: F401
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook
        from airflow.sdk.io import attach

        S3Hook("s3").get_conn()
        attach("s3", "s3")


def peak_kib(name: str) -> int:
    """A figure of this process's memory, `VmRSS` or `VmHWM`."""
    with open("/proc/self/status") as file:  # noqa: PTH123
        return next(int(line.split()[1]) for line in file if line.startswith(name))


def save(arguments: dict[str, object]) -> int:
    """Download one video; writes by how many KiB the memory grew at its peak."""
    from magichour_provider.hooks.magichour import MagicHourHook

    hook, first = MagicHourHook(sleep=lambda seconds: None), arguments.pop("after", None)
    if first is not None:
        hook.download(**{**arguments, "project_id": first})
    with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123
        file.write("5")  # forget the peak
    before = peak_kib("VmRSS")
    try:
        hook.download(**arguments)
    except Exception:
        traceback.print_exc()
        return 1
    print(f"grew {peak_kib('VmHWM') - before}", file=sys.stderr, flush=True)
    return 0


def main() -> None:
    """Carry the orders out until stdin ends."""
    warm_up()
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(os.waitpid(order["wait"], 0)[1], flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os._exit(save(order))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
