"""The text around the tables of `docs/performance.md`."""

from __future__ import annotations

INTRODUCTION = """\
# Performance of waiting

`make bench` writes this page; run it to see the figures of your own machine. All figures come from one run on one machine
against the same local server, so the ratios say more than the values.
"""
TRIGGERER = """\
## Restart of a triggerer

A live Airflow on PostgreSQL. {jobs:,} tasks wait, each with one poll per {period:g} s, when its triggerer is started.

- *Within*: seconds from the first trigger that Airflow starts to the last. `[triggerer] max_trigger_to_select_per_loop`
  sets how fast it starts them; here it has its default.
- *First poll within*: the longest time from the start of a trigger to the first poll of its job.
- *Blocks*: times at which the event loop was blocked for more than 100 ms, so that Airflow warns.

An idle trigger shows Airflow's own share.

"""
SCHEDULE = """\
## Poll intervals

Polls per video, and mean seconds from the end of a render to the poll that sees it. This is a simulation without a network:
a thousand jobs, twenty at a time.

- *First*: the first hundred jobs of a process that has learned nothing yet.
- *Polls*: polls of the learned intervals, divided by those of a fixed interval with the same mean delay.
- *Polls, first*: the same for the first jobs.

"""
METHOD = """\
## Method

- Each way of waiting runs in its own process with one event loop. It polls one local server in another process. The server
  gives each service's own response for a running job, with all its fields, at once or after 50 ms. There is no TLS.
- Waiters are started one after another as the triggerer starts them, with two steps of the event loop between them. The
  imports of the triggerer come before the measurement.
- The bare loop is one `aiohttp` session and one coroutine per job: sleep, get, parse the JSON, compare the status. It
  handles no error, no deadline and no rate limit, so it is what Python can do at best. All its polls come at once, because all
  its coroutines start at once. That makes a poll cheaper, for one step of the event loop handles many, and it blocks the
  event loop meanwhile. In the *spread* bare loop each coroutine first sleeps for a random part of the period, so that the
  polls come one by one, as the provider's do.
- The published triggers are unchanged. Their connections lead to the local server. The hook of dbt Cloud always uses
  `https`; the benchmark removes that from its URLs.
- CPU per poll: user and system time of the process in a window in which all jobs wait, divided by the polls that the server
  counted. *With the start*: the same over the whole life of the process, with imports and start.
- Lag: a timer of 10 ms notes how late it is, from before the first trigger is created, so the start is included. The maximum
  also includes the import of the trigger's module, which the triggerer does in its event loop. *Own share* leaves out the time
  in which other processes had the CPU (Linux only).
- The longest pauses at 10,000 jobs are full garbage collections: Python visits each object of Airflow and of the waiting
  triggers. Triggers that do nothing cause them, too. The provider takes out what exists after its import (`gc.freeze()`), but
  not the waiting triggers: Python never frees a cycle of frozen objects.
- Memory per job: resident memory with all jobs, less that of the same process with {few} jobs, divided by the number of jobs.
  *Beyond Airflow's own*: less the same figure of an idle trigger.
- Polls made: polls that the server counted, divided by those that were due.
- Figures of {repeated} are medians of {rounds} runs that alternated; the others are of one run.
"""
