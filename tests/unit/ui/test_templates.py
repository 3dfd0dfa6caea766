"""The pages: whole with the least of values, safe with the worst, and readable by everybody."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from datetime import date, datetime, timezone
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest

from magichour_provider import ui
from magichour_provider.ui import chart as credits_chart
from magichour_provider.ui.costs import Spent
from magichour_provider.ui.filters import FILTERS
from magichour_provider.ui.view_models import (
    Balance,
    Bar,
    Card,
    Chart,
    Failure,
    Filters,
    Gallery,
    Landed,
    Player,
    TaskKey,
    TaskPage,
)

FOLDER = Path(ui.__file__).parent
STYLE = (FOLDER / "static" / "page.css").read_text()
SCRIPT = (FOLDER / "static" / "page.js").read_text()

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> {{ 7 * 7 }} javascript:alert(3)"
NOW = datetime(2026, 3, 14, 15, 9, 26, tzinfo=timezone.utc)
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
LEAVES = {"line", "rect"}


def render(template, **values):
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment.get_template(template).render(
        root="/prefix/magichour", airflow="/prefix/", version="1.2.3", **values
    )


class Page(HTMLParser):
    """What a page consists of; `faults` names what is nested wrongly."""

    def __init__(self, text):
        super().__init__()
        self.open, self.faults, self.elements, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        self.faults += [f"<{name}> is never closed" for name in self.open]

    def handle_starttag(self, tag, attrs):
        if len({name for name, _ in attrs}) != len(attrs):
            self.faults.append(f"<{tag}> says an attribute twice")
        if "p" in self.open and tag in {"p", "ul", "ol", "dl", "div", "section", "figure", "pre"}:
            self.faults.append(f"<{tag}> within <p>")
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID | LEAVES:
            self.faults.append(f"<{tag}/>")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes another element")

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def text(self):
        return " ".join("".join(data for _, data in self.texts).split())

    @property
    def testids(self):
        return [attrs["data-testid"] for _, attrs in self.elements if "data-testid" in attrs]

    def values(self, name):
        return [attrs[name] for _, attrs in self.elements if name in attrs]

    def find(self, testid):
        return next(attrs for _, attrs in self.elements if attrs.get("data-testid") == testid)


def key(text="animate", map_index=-1):
    return TaskKey(text, text, text, map_index)


def full_task(text=EVIL):
    return TaskPage(
        key=key(text, 3),
        operator=text,
        state=text,
        status=text,
        is_live=True,
        name=text,
        model=text,
        resolution=text,
        end_seconds=5.0,
        prompt=text,
        image=text,
        credits_charged=120,
        queued_seconds=3.4,
        rendering_seconds=72.1,
        submitted_at=NOW,
        project_id=text,
        library_url="https://magichour.ai/?" + text,
        player=Player("/prefix/magichour/clip?x=" + text, text, "/prefix/magichour/poster?x=" + text, text),
        landed=Landed(text, 1_234_567, text, 1280, 720, 24.0, 5.04),
        failure=Failure(text, text, text, text, text),
        notes=(text, text),
        refresh_seconds=5,
    )


def least_task():
    return TaskPage(key=key(), operator="VideoJobSensor", state=None)


def full_gallery(text=EVIL):
    player = Player("/clip?" + text, text, "/poster?" + text, text)
    card = Card(key(text, 2), text, text, NOW, 120, text, text, 5.04, player, text)
    chart = Chart(
        width=960.0,
        height=240.0,
        bars=(Bar(60.0, 10.0, 20.0, 30.0, 0, text), Bar(90.0, 10.0, 20.0, 30.0, 11, text)),
        series=(text, "others"),
        totals=(120, 1_000),
        grid=((12.0, text), (212.0, "0")),
        labels=((70.0, text),),
        table=((date(2026, 3, 14), {text: 120}), (date(2026, 3, 13), {"others": 1_000})),
        total=1_120,
        days=30,
    )
    filters = Filters((text, "other"), (text, "failed"), text, "failed")
    return Gallery((card, card), filters, chart, "?before=" + text, "?" + text, (text,))


def least_gallery():
    return Gallery((Card(key(), "animate", None, None),), Filters((), ()), None)


def empty_gallery():
    return Gallery((), Filters((), ()), None)


FAILED = Failure("The image was refused", "No face was found.", "Use another image.")

PAGES = {
    "task, least": lambda: ("task.html", {"page": least_task()}),
    "task, full": lambda: ("task.html", {"page": full_task()}),
    "task, failed": lambda: ("task.html", {"page": TaskPage(key(), "X", "failed", failure=FAILED)}),
    "task, landed": lambda: (
        "task.html",
        {"page": TaskPage(key(), "X", "success", landed=Landed("/x"), player=Player("/v", "storage"))},
    ),
    "gallery, least": lambda: ("gallery.html", {"gallery": least_gallery()}),
    "gallery, full": lambda: ("gallery.html", {"gallery": full_gallery()}),
    "gallery, empty": lambda: ("gallery.html", {"gallery": empty_gallery()}),
    "gallery, none left": lambda: (
        "gallery.html",
        {"gallery": Gallery((), Filters(("a",), ("failed",), "a"), None)},
    ),
    "balances, none": lambda: ("balances.html", {"balances": ()}),
    "balances, full": lambda: ("balances.html", {"balances": (Balance("a"), Balance(EVIL, EVIL, 1, EVIL))}),
    "not ours": lambda: ("not_ours.html", {}),
    "refused": lambda: ("refused.html", {"status": 403, "title": EVIL, "message": EVIL}),
}

all_pages = pytest.mark.parametrize("which", PAGES)


def page_of(which):
    template, values = PAGES[which]()
    return Page(render(template, **values))


@all_pages
def test_every_page_is_nested_rightly(which):
    assert page_of(which).faults == []


@all_pages
def test_no_page_has_a_script_or_a_style_of_its_own(which):
    page = page_of(which)
    assert [data for tag, data in page.texts if tag in {"script", "style"}] == []
    assert "style" not in {tag for tag, _ in page.elements}
    names = {name for _, attrs in page.elements for name in attrs}
    assert not [name for name in names if name == "style" or name.startswith("on")]


@all_pages
def test_no_value_becomes_an_element_or_an_address_that_runs(which):
    page = page_of(which)
    scripts = [attrs["src"] for tag, attrs in page.elements if tag == "script"]
    assert scripts in ([], ["/prefix/magichour/static/page.js?v=1.2.3"])
    assert "x" not in page.values("src")
    assert not [href for href in page.values("href") if href.startswith("javascript:")]
    assert "49" not in page.text


@all_pages
def test_ids_are_said_once_and_whatever_is_named_by_an_id_is_there(which):
    page = page_of(which)
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    assert set(page.values("aria-labelledby")) | set(page.values("for")) <= set(ids)


@all_pages
def test_headings_are_in_order(which):
    levels = [int(tag[1]) for tag, _ in page_of(which).elements if re.fullmatch("h[1-6]", tag)]
    assert levels[:1] == ([] if which.startswith("balances") else [1])
    assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False))


@pytest.mark.parametrize("which", [name for name in PAGES if not name.startswith("balances")])
def test_every_page_says_its_language_and_loads_its_theme_before_its_body(which):
    page = page_of(which)
    assert page.elements[0] == ("html", {"lang": "en"})
    tags = [tag for tag, _ in page.elements]
    script = next(attrs for tag, attrs in page.elements if tag == "script")
    assert set(script) == {"src"}
    assert tags.index("script") < tags.index("body")


def test_hostile_text_is_shown_as_it_is():
    for template, values in (
        ("task.html", {"page": full_task()}),
        ("gallery.html", {"gallery": full_gallery()}),
    ):
        text = render(template, **values)
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert EVIL in Page(text).text


def test_a_library_address_that_is_none_of_the_web_is_no_link():
    page = Page(render("task.html", page=TaskPage(key(), "X", None, library_url="javascript:alert(1)")))
    assert "data-external-link" not in {name for _, attrs in page.elements for name in attrs}


def test_a_full_task_page_has_all_its_parts():
    page = page_of("task, full")
    expected = {"task-page", "status", "failure", "notes", "player", "prompt", "facts", "landed"}
    assert expected == set(page.testids)
    assert page.find("task-page")["data-refresh-seconds"] == "5"
    assert page.find("player")["poster"].startswith("/prefix/magichour/poster")
    assert Page(render("task.html", page=TaskPage(key(), "X", "deferred", "rendering"))).text.count(
        "Deferred Rendering The task waits"
    )
    assert "1 min 12 s" in page.text
    assert "120 credits" in page.text
    assert "What to do" in page.text


def test_every_field_of_a_task_page_is_shown():
    words = {field.name: f"word-{field.name}" for field in fields(TaskPage)}
    page = full_task("x")
    text = {name: words[name] for name in words if isinstance(getattr(page, name), str)}
    shown = Page(
        render("task.html", page=TaskPage(**(vars(page) | text | {"library_url": "https://word"})))
    ).text
    assert [word for name, word in text.items() if name != "library_url" and word not in shown] == []


def test_a_task_that_knows_nothing_yet_says_that_and_is_not_looked_at_again():
    page = page_of("task, least")
    assert {"task-page", "status", "facts", "no-player"} == set(page.testids)
    assert "data-refresh-seconds" not in page.find("task-page")
    assert "Not started" in page.text


def test_a_failed_task_shows_why_instead_of_a_place_for_a_clip():
    testids = page_of("task, failed").testids
    assert "failure" in testids
    assert not {"player", "no-player"} & set(testids)


def test_a_full_gallery_has_all_its_parts():
    page = page_of("gallery, full")
    expected = {
        "gallery",
        "balances",
        "filter-dag",
        "filter-state",
        "notes",
        "chart",
        "legend",
        "chart-table",
    }
    assert set(page.testids) == expected | {"card", "older", "newest"}
    assert page.testids.count("card") == 2
    selected = [attrs["value"] for tag, attrs in page.elements if tag == "option" and "selected" in attrs]
    assert selected == [EVIL, "failed"]


def test_the_chart_says_as_a_table_what_it_draws():
    page = page_of("gallery, full")
    cells = [data for tag, data in page.texts if tag == "td"]
    assert cells == ["120", "0", "0", "1,000", "120", "1,000"]
    assert [data for tag, data in page.texts if tag == "title"][1:] == [EVIL, EVIL]


def test_an_empty_gallery_says_how_to_get_a_first_clip():
    page = page_of("gallery, empty")
    assert "ImageToVideoOperator" in page.text
    assert "/prefix/connections" in page.values("href")


def test_a_gallery_whose_filters_leave_nothing_says_how_to_be_rid_of_them():
    page = page_of("gallery, none left")
    assert "ImageToVideoOperator" not in page.text
    assert page.values("href").count("/prefix/magichour/") == 2


def test_links_to_airflow_and_to_other_sites_are_marked_for_the_script_that_leads_out_of_the_frame():
    for which in PAGES:
        for tag, attrs in page_of(which).elements:
            href = attrs.get("href") or ""
            if tag != "a" or href.startswith(("?", "/prefix/magichour/")):
                continue
            marker = "data-airflow-link" if href.startswith("/prefix/") else "data-external-link"
            assert marker in attrs, href


def test_every_balance_is_listed():
    page = Page(
        render("balances.html", balances=(Balance("a"), Balance("studio", "pro", 12_340, "No answer.")))
    )
    assert page.testids == ["balance", "balance"]
    assert page.text == "a studio 12,340 credits pro No answer."
    assert "may read" in page_of("balances, none").text


def test_a_task_of_others_gets_one_line():
    page = page_of("not ours")
    assert page.testids == ["not-ours"]
    assert len([tag for tag, _ in page.elements if tag == "p"]) == 2  # the line, and what announces changes


def test_a_refusal_says_what_and_why():
    page = Page(render("refused.html", status=404, title="No such task", message="It may be gone."))
    assert page.testids == ["refused"]
    assert {"404", "No such task", "It may be gone."} <= {data for _, data in page.texts}


def test_every_series_that_the_chart_can_have_has_a_colour_of_its_own():
    series = credits_chart.draw(
        [Spent(dag_id=f"dag_{n}", at=NOW, credits=n + 1) for n in range(20)], NOW.date()
    ).series
    for theme in ("light", "dark"):
        colours = {colour for name, colour in tokens(theme).items() if name.startswith("series-")}
        assert len(colours) == len(series)
    (bars,) = set(re.findall(r"series-{{ [^}]*% (\d+) }}", (FOLDER / "templates" / "chart.html").read_text()))
    assert int(bars) == len(series)


def test_every_class_of_the_pages_has_a_style_and_every_tone_a_colour():
    used = {name for which in PAGES for names in page_of(which).values("class") for name in names.split()}
    assert used - set(re.findall(r"\.([a-z][\w-]*)", STYLE)) - {"tone-none"} == set()
    assert set(re.findall(r"var\((--[\w-]+)\)", STYLE)) <= set(re.findall(r"(--[\w-]+):", STYLE))


def test_style_and_script_load_nothing_from_elsewhere():
    for text in (STYLE, SCRIPT):
        assert not re.search(r"https?://|@import|url\(|eval\(|innerHTML", text)


# Contrast, as WCAG 2.2 reckons it


def luminance(colour):
    if colour == "#fff":
        return 1.0
    lightness, chroma, hue = (
        float(part) for part in re.fullmatch(r"oklch\((\S+) (\S+) (\S+)\)", colour).groups()
    )
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.707614701 * short
    shares = zip((0.2126, 0.7152, 0.0722), (red, green, blue), strict=True)
    return sum(share * min(max(light, 0.0), 1.0) for share, light in shares)


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def tokens(theme):
    pairs = re.findall(
        r"--([\w-]+): (?:light-dark\((#fff|oklch\(.+?\)), (oklch\(.+?\))\)|(#fff|oklch\(.+?\)));", STYLE
    )
    return {name: both or (light if theme == "light" else dark) for name, light, dark, both in pairs}


TONES = ("success", "failed", "deferred", "running", "queued", "up-for-retry", "up-for-reschedule", "skipped")
TONES += ("upstream-failed", "restarting", "awaiting-input", "scheduled", "removed", "none")
BACKGROUNDS = ("bg", "bg-muted", "bg-panel")
TEXTS = [(text, back) for text in ("fg", "fg-muted", "link") for back in BACKGROUNDS]
TEXTS += [("error-fg", back) for back in ("error-bg", "bg", "bg-panel")]
TEXTS += [
    ("fg", "error-bg"),
    ("fg-muted", "error-bg"),
    ("fg", "note-bg"),
    *(("tone-text", tone) for tone in TONES),
]
SHAPES = [(f"series-{number}", "bg-panel") for number in range(7)]
SHAPES += [(shape, back) for shape in ("focus", "border-control") for back in BACKGROUNDS]
SHAPES += [("error-border", "error-bg"), ("note-border", "note-bg")]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_shapes_stand_out_in_both_themes(theme):
    colours = tokens(theme)
    assert {pair: c for pair in TEXTS if (c := contrast(colours[pair[0]], colours[pair[1]])) < 4.5} == {}
    assert {pair: c for pair in SHAPES if (c := contrast(colours[pair[0]], colours[pair[1]])) < 3.0} == {}
