"""What `docs/performance.md` says around its tables."""

from __future__ import annotations

INTRODUCTION = """\
# What waiting costs

Written by `make bench`; run it again to see your own machine's figures. All were measured in one run, on the
same machine and against the same local server, so the ratios say more than the values.
"""
TRIGGERER = """\
## A triggerer is restarted

A live Airflow on PostgreSQL; {clips:,} tasks wait, with a look at each per {period:g} s, when its triggerer
is started. *Within*: from the first trigger that Airflow starts to the last; how fast it hands them out is
its own matter (`[triggerer] max_trigger_to_select_per_loop`, here its default). *Each within*: the longest
that a clip waited for its first look after its trigger had been started. *Blocks* are those of more than
100 ms of which Airflow warns. A trigger that does nothing shows Airflow's own share.

"""
SCHEDULE = """\
## The schedule

Looks per clip and mean seconds from the end of a render to the look that sees it: simulated with a
thousand clips, twenty at a time, without a network. *First clips*: the first hundred of a process that has
learned nothing. *Looks*: those of the learned schedule, as a multiple of those of a fixed interval that has
the same mean delay; *first*: the same of the first clips.

"""
METHOD = """\
## How it is measured

- Each way of waiting runs in a process of its own with one event loop, and asks one local server in another
  process. The server gives each service's own answer for a job that still runs, with all its fields, at
  once or after 50 ms. There is no TLS in it.
- Waiters are started one after another as the triggerer does it, with two turns of the loop between them,
  and run as it runs them. What the triggerer has imported before its first trigger is imported before the
  clock starts.
- The bare loop is one `aiohttp` session and one coroutine for each clip: sleep, get, read the JSON, look at
  the status. It knows no error, no deadline and no limit of rate; it is what Python can do at best. All its
  looks come at once, once a period, as it starts all at once: that makes a look cheaper, for one turn of
  the loop does many, and blocks the loop meanwhile. *Spread*, each coroutine begins with a sleep of a
  random part of the period, so that the looks come one by one as ours do.
- The published triggers are used as they are, by a connection to the local server. dbt Cloud's hook knows
  nothing but `https`, which is taken out of its URLs.
- CPU per look: user and system time of the process over a window in which all wait, by the looks that the
  server counted in it. *With the start*: over the whole life of the process, import, start and lag clock
  included; it stands for both where looks come in bursts that a window has cut.
- Lag: a timer of 10 ms writes down how late it is, from before the first trigger is made, the start
  included. The maximum counts the import of the trigger's module too, which the triggerer does in its loop,
  and which some subjects put off until their first look. *Its own share* leaves out the time in which this
  process was ready and other processes had the CPU (Linux tells it).
- Memory per clip: resident memory with all clips, less that of the same process with {few} clips, by clips.
  *Beyond Airflow's own*: less the same figure of a trigger that does nothing.
- Looks made: those that the server counted, of the clips times the seconds by the period.
- Figures of {repeated} are medians of {rounds} runs that took turns; the others' are of one.
"""
