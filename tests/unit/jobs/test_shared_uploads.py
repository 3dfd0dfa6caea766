"""Sharing uploads: many tasks at once on a board like Airflow's, and what is used when, and never."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient
from magichour_provider.exceptions import NetworkError, TaskKilledError
from magichour_provider.jobs import shared_uploads
from magichour_provider.jobs.shared_uploads import TRUSTED_SECONDS, UploadCache
from magichour_provider.storage.images import open_source

IMAGE = "dags_examples/images/grace_hopper.jpg"
SHA256 = hashlib.sha256(Path(IMAGE).read_bytes()).hexdigest()
NAME = "an-image"
DAY = 86400


@pytest.fixture(autouse=True)
def in_its_time(monkeypatch):
    """What is waited for comes, or is given up by what is seen; else the test runs out of its time."""
    monkeypatch.setattr(shared_uploads, "_PAUSE_FOR_EACH_BEFORE", 0.02)
    monkeypatch.setattr(shared_uploads, "_PATIENCE_SECONDS", 3600)


class Board:
    """What the tasks of some runs have written; every read and write takes its time, as over HTTP."""

    def __init__(self, delay=0.0):
        self.delay = delay
        self.claimed = {}
        self.published = {}
        self.alive = set()
        self.run = 0
        self.requests = 0

    def of(self, map_index):
        self.alive.add(map_index)
        return Place(self, map_index)

    def next_run(self):
        self.run += 1

    def wait(self):
        self.requests += 1
        time.sleep(random.uniform(0, self.delay))

    def put(self, path, at, map_index=0):
        self.published[self.run, map_index, NAME] = {"file_path": path, "at": at}


class Place:
    """The board as one task sees it."""

    def __init__(self, board, map_index):
        self.board, self.map_index = board, map_index

    def claim(self, image, claim):
        self.board.wait()
        self.board.claimed[self.board.run, self.map_index, image] = claim
        self.board.wait()

    def claims(self, image):
        self.board.wait()
        return [
            claim
            for (run, _, of), claim in list(self.board.claimed.items())
            if (run, of) == (self.board.run, image)
        ]

    def publish(self, image, uploaded):
        self.board.wait()
        self.board.published[self.board.run, self.map_index, image] = uploaded

    def uploads(self, image, *, earlier_runs):
        self.board.wait()
        return [
            uploaded
            for (run, _, of), uploaded in list(self.board.published.items())
            if of == image and (earlier_runs or run == self.board.run)
        ]

    def running(self):
        self.board.wait()
        return set(self.board.alive)


class Storage:
    """Takes uploads, each in `seconds`, and hands out a path for each."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.paths = []

    def send(self, source):
        sent = b"".join(source.iter_chunks())
        assert len(sent) == source.size
        time.sleep(self.seconds)
        self.paths.append(f"api-assets/{len(self.paths)}/image.jpg")
        return self.paths[-1]


def uploads_of(board, map_index=0, *, make_sure=lambda: None, **options):
    return UploadCache(board.of(map_index), map_index, make_sure, **options)


def bring(uploads, storage, name=NAME, *, image=IMAGE, sha256=SHA256):
    return uploads.bring(name, open_source(str(image)), sha256, storage.send)


@pytest.mark.parametrize("seed", range(5))
def test_forty_tasks_that_begin_at_once_upload_their_image_once(seed):
    random.seed(seed)
    board, storage, begin = Board(delay=0.02), Storage(0.3), threading.Barrier(40)

    def one(index):
        uploads = uploads_of(board, index)
        begin.wait()
        return bring(uploads, storage)

    with ThreadPoolExecutor(40) as pool:
        paths = set(pool.map(one, range(40)))
    assert len(storage.paths) == 1
    assert paths == set(storage.paths)


def test_a_hundred_tasks_one_after_the_other_by_eights_upload_their_image_once():
    board, storage = Board(delay=0.005), Storage(0.05)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: bring(uploads_of(board, index), storage), range(100)))
    assert len(storage.paths) == 1


def test_a_claim_that_arrives_late_is_waited_for(monkeypatch):
    board, storage, writing, claim = Board(), Storage(), threading.Event(), Place.claim

    def late(place, image, value):
        if place.map_index == 1:
            writing.set()
            time.sleep(shared_uploads._ARRIVAL_PAUSE[0] / 2)
        claim(place, image, value)

    monkeypatch.setattr(Place, "claim", late)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(bring, uploads_of(board, 1), storage)
        assert writing.wait(10)
        second = bring(uploads_of(board, 2), storage)
    assert [first.result(), second] == storage.paths * 2


def test_a_later_run_uses_it_and_asks_once():
    board, storage = Board(), Storage()
    bring(uploads_of(board), storage)
    board.next_run()
    board.requests = 0
    assert bring(uploads_of(board, 7), storage) == storage.paths[0]
    assert board.requests == 1
    assert len(storage.paths) == 1


def test_a_task_that_shares_its_image_with_nobody_asks_and_writes_four_times():
    board = Board()
    bring(uploads_of(board), Storage())
    assert sum(1 for _ in board.claimed) == 1
    assert board.requests == 5, "the board counts its claim twice"


@pytest.mark.parametrize(
    ("age", "is_used"), [(0, True), (5.9 * DAY, True), (6.1 * DAY, False), (8 * DAY, False), (-DAY, False)]
)
def test_an_upload_is_used_for_six_days_and_not_by_a_clock_that_is_wrong(age, is_used):
    board, storage = Board(), Storage()
    board.put("api-assets/old/image.jpg", time.time() - age)
    assert (bring(uploads_of(board), storage) == "api-assets/old/image.jpg") is is_used
    assert len(storage.paths) == (not is_used)


def test_the_margin_is_a_day():
    assert TRUSTED_SECONDS == 6 * DAY


def test_nothing_from_before_is_used_where_that_is_not_trusted():
    board, storage = Board(), Storage()
    board.put("api-assets/old/image.jpg", time.time() - 60)
    uploads = uploads_of(board)
    uploads.trust_from(time.time() - 30)
    assert bring(uploads, storage) == storage.paths[0]
    uploads = uploads_of(board, 1, trusted_from=time.time() - 30)
    assert bring(uploads, storage) == storage.paths[0], "what was uploaded since then is"


def test_what_another_version_or_another_hand_has_written_is_not_used():
    board, storage = Board(), Storage()
    board.published = {
        (0, 1, NAME): "api-assets/a/image.jpg",
        (0, 2, NAME): {"file_path": "https://example.com/image.jpg", "at": time.time()},
        (0, 3, NAME): {"file_path": "api-assets/a/image.jpg"},
        (0, 4, NAME): {"file_path": 5, "at": time.time()},
    }
    assert bring(uploads_of(board), storage) == storage.paths[0]


def test_another_image_is_uploaded_and_the_same_one_twice_in_a_task_is_not():
    board, storage = Board(), Storage()
    uploads = uploads_of(board)
    first, last = bring(uploads, storage), bring(uploads, storage, "another")
    assert first != last
    assert bring(uploads, storage) == first
    assert len(storage.paths) == 2


def test_who_has_claimed_before_and_died_is_not_waited_for():
    board, storage = Board(), Storage()
    board.of(1).claim(NAME, {"at": time.time() - 5, "map_index": 1})
    board.alive.discard(1)
    assert bring(uploads_of(board), storage) == storage.paths[0]


def test_who_dies_while_others_wait_is_followed_by_one_of_them():
    board, storage = Board(), Storage(0.2)
    board.of(50).claim(NAME, {"at": time.time() - 5, "map_index": 50})
    dying = threading.Timer(1.0, board.alive.discard, [50])
    dying.start()
    with ThreadPoolExecutor(10) as pool:
        paths = set(pool.map(lambda index: bring(uploads_of(board, index), storage), range(10)))
    assert dying.finished.is_set()
    assert paths == set(storage.paths)
    assert len(paths) == 1


def test_who_uploads_and_ends_between_two_looks_is_found(monkeypatch):
    board, storage = Board(), Storage()
    board.of(1).claim(NAME, {"at": time.time() - 5, "map_index": 1})

    def ends(place):
        board.put("api-assets/first/image.jpg", time.time(), map_index=1)
        return set()

    monkeypatch.setattr(Place, "running", ends)
    assert bring(uploads_of(board), storage) == "api-assets/first/image.jpg"


def test_who_has_uploaded_and_runs_on_is_not_waited_for():
    board, storage = Board(), Storage()
    bring(uploads_of(board), storage)
    uploads_of(board, 1).disown(NAME)
    assert bring(uploads_of(board, 2), storage) == storage.paths[1]


def test_who_begins_anew_stands_last_and_is_not_waited_for():
    board, storage = Board(), Storage()
    first = board.of(1)
    first.claim(NAME, {"at": time.time() - 5, "map_index": 1})

    def begins_anew():
        first.claim(NAME, {"at": time.time(), "map_index": 1})

    threading.Timer(0.5, begins_anew).start()
    assert bring(uploads_of(board), storage) == storage.paths[0]


def test_nobody_is_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(shared_uploads, "_PATIENCE_SECONDS", 0.5)
    board, storage = Board(), Storage()
    board.of(1).claim(NAME, {"at": time.time() - 5, "map_index": 1})
    assert bring(uploads_of(board), storage) == storage.paths[0]


def test_a_task_that_was_marked_waits_no_longer():
    board, storage = Board(), Storage()
    board.of(1).claim(NAME, {"at": time.time() - 5, "map_index": 1})

    def stopped():
        raise TaskKilledError("This task was told to stop.")

    uploads = uploads_of(board, make_sure=stopped)
    board.alive.discard(0)
    with pytest.raises(TaskKilledError):
        bring(uploads, storage)
    assert storage.paths == []


def test_a_task_that_is_killed_ends_its_wait_before_the_next_look():
    board, storage = Board(), Storage()
    board.of(1).claim(NAME, {"at": time.time() - 5, "map_index": 1})

    def stopped():
        raise TaskKilledError("This task was told to stop.")

    board.requests = 0
    with pytest.raises(TaskKilledError):
        bring(uploads_of(board, make_sure=stopped, is_killed=lambda: board.requests > 4), storage)
    assert board.requests == 5, "as often as when it was killed"


@pytest.mark.parametrize("verb", ["claim", "claims", "publish", "uploads", "running"])
def test_a_board_that_fails_costs_an_upload_and_nothing_else(verb, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("the API server is away")

    board, storage = Board(), Storage()
    board.of(1).claim(NAME, {"at": time.time() - 5, "map_index": 1})
    uploads = uploads_of(board)
    if verb == "publish":
        board.alive.discard(1)
    monkeypatch.setattr(Place, verb, fails)
    assert bring(uploads, storage) == storage.paths[0]


def test_an_upload_that_fails_is_told_to_nobody():
    board = Board()

    def fails(_):
        raise NetworkError("no")

    with pytest.raises(NetworkError):
        uploads_of(board).bring(NAME, open_source(IMAGE), SHA256, fails)
    assert board.published == {}


def test_a_path_that_was_refused_is_not_used_again_by_this_task_or_the_next():
    board, storage = Board(), Storage()
    board.put("api-assets/gone/image.jpg", time.time() - 60, map_index=9)
    uploads = uploads_of(board)
    assert not uploads.give_up_used()
    assert bring(uploads, storage) == "api-assets/gone/image.jpg"
    assert uploads.give_up_used()
    assert bring(uploads, storage) == storage.paths[0]
    assert not uploads.give_up_used(), "the last one is its own"
    assert bring(uploads_of(board, 1), storage) == storage.paths[0], "the newest counts"


def test_where_the_last_path_was_refused_no_older_one_is_tried():
    """Only one more create is sent, and it must not fail by another path that is gone."""
    board, storage = Board(), Storage()
    board.put("api-assets/gone/image.jpg", time.time() - 60, map_index=9)
    board.put("api-assets/gone-too/image.jpg", time.time() - 120, map_index=8)
    uploads = uploads_of(board)
    assert bring(uploads, storage) == "api-assets/gone/image.jpg"
    assert uploads.give_up_used()
    assert bring(uploads, storage) == storage.paths[0]


def test_many_tasks_whose_path_was_refused_upload_it_anew_once():
    board, storage = Board(delay=0.01), Storage(0.1)
    board.put("api-assets/gone/image.jpg", time.time() - 60, map_index=99)

    def one(index):
        uploads = uploads_of(board, index)
        assert bring(uploads, storage) == "api-assets/gone/image.jpg"
        refused.wait()
        assert uploads.give_up_used()
        return bring(uploads, storage)

    refused = threading.Barrier(20)
    with ThreadPoolExecutor(20) as pool:
        paths = set(pool.map(one, range(20)))
    assert paths == set(storage.paths)
    assert len(paths) == 1


def test_what_is_disowned_is_not_used_and_what_comes_after_is():
    board, storage = Board(), Storage()
    bring(uploads_of(board), storage)
    uploads_of(board, 1).disown(NAME)
    assert bring(uploads_of(board, 2), storage) == storage.paths[1]
    assert bring(uploads_of(board, 3), storage) == storage.paths[1]


def test_a_file_that_changes_while_it_is_sent_is_told_to_nobody(tmp_path):
    image = tmp_path / "image.jpg"
    image.write_bytes(Path(IMAGE).read_bytes())
    board, storage = Board(), Storage()
    bring(uploads_of(board), storage, image=image, sha256=hashlib.sha256(b"as it was").hexdigest())
    assert board.published == {}
    bring(uploads_of(board), storage, image=image)
    assert len(board.published) == 1


def test_an_images_name_is_its_accounts_own_and_tells_nothing():
    def name(key="mhk_live_one", host="https://api.magichour.ai", extension="jpg", sha256=SHA256):
        with MagicHourClient(ClientSettings(key, host)) as client:
            return client.name_for(extension, sha256)

    assert name() == name()
    others = {
        name(key="mhk_live_two"),
        name(host="https://eu.magichour.ai"),
        name(extension="png"),
        name(sha256=hashlib.sha256(b"another").hexdigest()),
    }
    assert len({name(), *others}) == 5
    assert len(name()) == 32
    assert not {SHA256[:8], "mhk_live_one"} & {name()[i : i + 12] for i in range(32)}
