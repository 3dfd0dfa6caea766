"""One attempt at a batch in a process of its own, which a test kills: worker and trigger in turn."""

from __future__ import annotations

import asyncio
import json
import sys
from types import SimpleNamespace
from unittest.mock import patch

from magichour_provider.operators import image_to_video_batch
from magichour_provider.triggers import video_batch
from magichour_provider.version_compat import TaskDeferred


def run(attempt: int, **arguments: object) -> None:
    """Run the attempt to its end; what the operator returns goes to stdout."""
    xcoms: dict[str, object] = {}
    ti = SimpleNamespace(dag_id="dag", task_id="render", run_id="run", map_index=-1)
    ti.try_number, ti.max_tries, ti.xcom_push = attempt, 20, xcoms.__setitem__
    event = None
    with (
        patch.object(image_to_video_batch, "get_xcom", lambda ti, task_id, key: xcoms.get(key)),
        patch.object(video_batch, "get_xcom", lambda ti, task_id, key: xcoms.get(key)),
        patch.object(video_batch, "push_xcom", lambda ti, key, value: ti_push(xcoms, key, value)),
        patch.object(video_batch, "min_deferral_seconds", lambda: 0.0),
    ):
        while True:
            operator = image_to_video_batch.ImageToVideoBatchOperator(task_id="render", **arguments)
            try:
                result = (
                    operator.execute_complete({"ti": ti}, event) if event else operator.execute({"ti": ti})
                )
            except TaskDeferred as deferred:
                event = asyncio.run(anext_event(deferred.trigger))
            else:
                print(json.dumps(result))
                return


def ti_push(xcoms: dict[str, object], key: str, value: object) -> None:
    xcoms[key] = value


async def anext_event(trigger: video_batch.VideoBatchTrigger) -> dict[str, object]:
    return dict((await anext(trigger.run())).payload)


if __name__ == "__main__":
    run(int(sys.argv[1]), **json.loads(sys.argv[2]))
