"""The pages in a real browser: nothing is loaded, a phone is wide enough, and keys do what they say."""

from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from answers import feature_file, people
from browser import Browser

from raid.methods.answers.ranking import Wanted, answer
from raid.run_folder import RunFolder
from raid.sweep_folder import SweepFolder

pytestmark = browser.needed


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser.browser(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lists")
    file = feature_file(folder, people(45), camera_names=("hall", "door", "<b>yard"))
    answer(file, file, Wanted(top=2, page=folder / "p.html"))
    return folder / "p.html"


@pytest.fixture(scope="module")
def pages(
    lists: Path, run: RunFolder, mar_run: RunFolder, slsr_run: RunFolder, decay_sweep: SweepFolder
) -> list[Path]:
    return [lists, run.report, mar_run.report, slsr_run.report, decay_sweep.report]


def test_pages_load_nothing_and_are_no_wider_than_the_window(tab, pages):
    for path in pages:
        for width in (1280, 390):
            for dark in (False, True):
                tab.open(path, width=width, dark=dark)
                loaded = [address for address in tab.loaded if not address.startswith("data:")]
                assert loaded == [path.absolute().as_uri()]
                assert tab.errors == []
                assert tab.value("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
                page_is_dark = (
                    tab.value("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 21)"
                )
                assert page_is_dark == dark


def test_the_look_is_switched_and_printed_pages_are_light(tab, lists):
    tab.open(lists, dark=True)
    colour = "getComputedStyle(document.body).backgroundColor"
    tab.press("d")
    assert tab.value(colour) == "rgb(246, 247, 249)"
    tab.value("document.querySelector('.tools button').click()")
    assert tab.value(colour) == "rgb(15, 18, 21)"
    tab.open(lists, dark=False)
    assert tab.value(colour) == "rgb(15, 18, 21)"  # what was chosen is kept
    tab.print_media(True)
    assert tab.value(colour) == "rgb(246, 247, 249)"
    assert tab.value("getComputedStyle(document.querySelector('.controls')).display") == "none"
    tab.print_media(False)
    tab.value("localStorage.clear()")


AT = "document.activeElement.closest('.list')?.dataset.order ?? null"
SHOWN = "[...document.querySelectorAll('.list')].filter(l => !l.hidden).map(l => Number(l.dataset.order))"


def test_keys_go_through_the_lists_and_enlarge_a_picture(tab, lists):
    tab.open(lists)
    assert tab.value(AT) is None
    tab.press("j")
    assert tab.value(AT) == "0"
    tab.press("j", "ArrowDown")
    assert tab.value(AT) == "2"
    tab.press("k", "ArrowUp", "ArrowUp")
    assert tab.value(AT) == "0"
    tab.press("ArrowRight", "ArrowRight")
    picture = "document.activeElement.querySelector('small').textContent"
    assert tab.value(picture) == "1"
    tab.press("Enter")
    large = "document.querySelector('dialog.large')"
    assert tab.value(f"{large}.open")
    shown = f"{large}.querySelector('img').src"
    of = "document.querySelectorAll('.list')[0].querySelectorAll('li')[{}].querySelector('img').src"
    assert tab.value(f"{shown} === {of.format(1)}")
    tab.press("ArrowRight")
    assert tab.value(f"{shown} === {of.format(2)}")
    tab.press("j")  # not while it is open
    tab.press("Escape")
    tab.becomes(f"{large}.open", False)
    tab.becomes(picture, "2")
    assert tab.value(AT) == "0"


def test_keys_are_shown_and_the_filter_is_reached(tab, lists):
    tab.open(lists)
    tab.press("?")
    keys = tab.value("document.querySelector('dialog.help').open && document.querySelector('dl').innerText")
    assert "next list" in keys
    assert "filter" in keys
    tab.press("Escape")
    tab.becomes("document.querySelector('dialog.help').open", False)
    tab.press("/")
    assert tab.value("document.activeElement.name") == "text"
    tab.press("0", "0", "3", "j")  # letters are letters there
    assert tab.value("document.activeElement.value") == "003j"
    tab.press("Escape")
    assert tab.value("document.activeElement === document.body")


def choose(tab: Browser, name: str, value: str) -> list[int]:
    field = f"document.querySelector('[name={name}]')"
    change = f"{field}.checked = true" if name == "wrong" else f"{field}.value = '{value}'"
    tab.value(f"{change}; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    return list(tab.value(SHOWN))


def data_of(tab: Browser, name: str) -> dict[int, str | None]:
    pairs = tab.value(
        "[...document.querySelectorAll('.list')].map(l => [Number(l.dataset.order), l.dataset."
        f"{name} ?? null])"
    )
    return dict(map(tuple, pairs))


def test_lists_are_filtered(tab, lists):
    tab.open(lists)
    everything, cameras, firsts = tab.value(SHOWN), data_of(tab, "camera"), data_of(tab, "first")
    assert everything == list(range(15))
    at_yard = [query for query in everything if cameras[query] == "<b>yard"]
    assert 0 < len(at_yard) < 15
    assert choose(tab, "query", "<b>yard") == at_yard
    told = tab.value("document.querySelector('output').value")
    assert told == f"{len(at_yard)} of 15 lists"
    choose(tab, "query", "")
    wrong = [query for query in everything if firsts[query] == "wrong"]
    assert choose(tab, "wrong", "") == wrong
    tab.open(lists)
    found = "[...l.querySelectorAll('li:not(.query)')].some(i => i.dataset.camera === 'door')"
    with_door = [
        query
        for query, there in enumerate(tab.value(f"[...document.querySelectorAll('.list')].map(l => {found})"))
        if there
    ]
    assert 0 < len(with_door) < 15
    assert choose(tab, "gallery", "door") == with_door
    items = "[...document.querySelectorAll('.list:not([hidden]) li:not(.query)')].filter(i => !i.hidden)"
    assert tab.value(f"[...new Set({items}.map(i => i.dataset.camera))]") == ["door"]
    choose(tab, "gallery", "")
    assert choose(tab, "text", "NOWHERE") == []
    found = choose(tab, "text", "003.PNG")  # the query of list 1
    assert 1 in found


def test_lists_are_sorted_and_those_without_a_figure_come_last(tab, lists):
    tab.open(lists)
    for name, by in (("ap", 1), ("ap", -1), ("top", 1), ("top", -1)):
        values = {query: value for query, value in data_of(tab, name).items() if value is not None}
        order = choose(tab, "sort", f"{name} {by}")
        assert order[: len(values)] == sorted(values, key=lambda query: (by * float(values[query]), query))
    assert len(values) == 15
    assert choose(tab, "sort", "order 1") == list(range(15))


def test_without_a_script_all_lists_are_read(tab, lists):
    tab.open(lists, script=False)
    assert tab.value("document.querySelector('.tools')") is None
    assert tab.value("getComputedStyle(document.querySelector('.controls')).display") == "none"
    heights = tab.value("[...document.querySelectorAll('.list')].map(l => l.getBoundingClientRect().height)")
    assert len(heights) == 15
    assert min(heights) > 100


CELLS = "[...document.querySelectorAll('#{} tbody tr')].map(r => r.cells[{}].textContent)"


def test_a_table_is_sorted_by_the_pointer_and_the_keyboard(tab, decay_sweep):
    tab.open(decay_sweep.report)
    heads = tab.value("[...document.querySelectorAll('#points thead th')].map(h => h.textContent)")
    column = heads.index("mAP, %")
    before = tab.value(CELLS.format("points", column))
    head = f"document.querySelectorAll('#points thead th')[{column}]"
    tab.value(f"{head}.querySelector('button').click()")
    rising = tab.value(CELLS.format("points", column))
    assert rising == sorted(before, key=lambda text: float(text.split()[0])) != before
    assert tab.value(f"{head}.getAttribute('aria-sort')") == "ascending"
    tab.value(f"{head}.querySelector('button').focus()")
    tab.press("Enter")
    assert tab.value(CELLS.format("points", column)) == rising[::-1]
    assert tab.value(f"{head}.getAttribute('aria-sort')") == "descending"
    tab.press("Enter")
    assert tab.value(CELLS.format("points", column)) == before
    assert tab.value(f"{head}.getAttribute('aria-sort')") is None


def test_durations_are_sorted_by_their_length_and_a_sum_stays_below(tab, run):
    tab.open(run.report)
    tab.value("document.querySelectorAll('#times thead th')[1].querySelector('button').click()")
    stages = tab.value(CELLS.format("times", 0))
    seconds = tab.value(CELLS.format("times", 1))
    assert stages[-1] == "all"
    assert any("min" in text for text in seconds[:-1])
    units = {"h": 3600, "min": 60, "s": 1}
    lengths = [
        sum(float(number) * units[unit] for number, unit in zip(*[iter(text.split())] * 2, strict=True))
        for text in seconds[:-1]
    ]
    assert lengths == sorted(lengths)


def test_the_lists_of_a_run_have_the_keys_too(tab, run):
    tab.open(run.report)
    tab.press("ArrowDown")  # scrolls, as on any page
    assert tab.value(AT) is None
    tab.press("j", "ArrowDown")
    assert tab.value(AT) is not None
    everything = tab.value(SHOWN)
    at = choose(tab, "query", "2")
    assert 0 < len(at) < len(everything)


def test_the_pictures_of_a_run_of_mar_are_filtered_by_their_cameras(tab, mar_run):
    tab.open(mar_run.report)
    pairs = "[...document.querySelectorAll('.pairs li')]"
    cameras = tab.value(f"{pairs}.map(p => p.innerText.match(/cameras (.*), (.*)/).slice(1))")
    expected = [number for number, pair in enumerate(cameras) if "2" in pair]
    assert 0 < len(expected) < len(cameras) == 12
    choose(tab, "pair", "2")
    assert tab.value(f"{pairs}.map((p, n) => p.hidden ? -1 : n).filter(n => n >= 0)") == expected
    told = tab.value("document.querySelector('#pairs output').value")
    assert told == f"{len(expected)} of 12 pairs"
    tab.value("document.querySelector('.pairs li:not([hidden])').focus()")
    tab.press("Enter")
    assert tab.value("document.querySelectorAll('dialog.large[open] img').length") == 2
    tab.press("Escape")
    tab.becomes("document.querySelector('dialog.large').open", False)
