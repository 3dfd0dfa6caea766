from __future__ import annotations

from typing import NamedTuple

from magichour_provider.waiting.schedule import LookPlan


class RenderKind(NamedTuple):
    model: str | None = None
    resolution: str | None = None
    end_seconds: float | None = None


ANY_KIND = RenderKind()


class RenderTimes:
    def plan_for(self, kind: RenderKind) -> LookPlan:
        return LookPlan()

    def learn(self, kind: RenderKind, shortest: float, longest: float) -> None:
        pass


render_times = RenderTimes()
