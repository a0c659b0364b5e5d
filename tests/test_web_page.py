"""The page in a browser: Playwright drives Chromium, headless. Skipped where either is not there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi", reason="the page needs FastAPI: pip install 'recurra[lens]'")
pytest.importorskip("uvicorn", reason="the page needs uvicorn: pip install 'recurra[lens]'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")

from web_server import Counter, Reader, asked, served, unpacked  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
    # Playwright's own loop is closed by its own hands
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
TABS = ["watch", "learn", "memory", "gradients", "mattered", "search", "edit", "diagram"]
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    torch.manual_seed(33)
    with served(Counter(), torch.randn(5, 21, 2)) as found:
        yield found


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """visit(address, **options of the context): a page that has loaded. Fails for anything on its console."""
    contexts, said = [], []

    def visit(address: str, **options: Any) -> Any:
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", **options}
        )
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda message: said.append(message.text) if message.type in ("error", "warning") else 0,
        )
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        page.said = said
        return page

    yield visit
    for context in contexts:
        context.close()
    # what the browser itself says of a server that has stopped is no error of the page
    assert not [text for text in said if "net::ERR_" not in text]


def seen(page: Any, selector: str, pattern: str) -> None:
    playwright.expect(page.locator(selector).first).to_have_text(re.compile(pattern), timeout=10_000)


def idle(page: Any) -> None:
    playwright.expect(page.locator(".busy")).to_have_count(0, timeout=15_000)


def test_the_first_paint_comes_within_a_second(address: str, visit: Open) -> None:
    visit(address)  # the browser's own start is not the page's
    page = visit(address)
    seen(page, ".transport output", "/ 21")
    first = page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert 0 < first < 1000


def test_arrows_step_and_the_equations_follow(address: str, visit: Open) -> None:
    page = visit(address)
    seen(page, ".transport output", "11 / 21")
    page.keyboard.press("Home")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    seen(page, ".transport output", "^3 / 21")
    page.locator("#unit").fill("5")
    page.locator("#unit").press("Tab")
    _, arrays = unpacked(asked(address, "api/trace", {"sample": {"index": 0}, "module": "rnn"})[1])
    for name in ("forget", "input", "candidate", "output", "cell", "hidden"):
        wanted = f"{float(arrays[name][2, 5]):.2f}".replace("-", "−").replace("−0.00", "0.00")
        seen(page, f"[data-stage={name}] .numbers b", f"^{wanted}$")
        seen(page, f"[data-name={name}] .value", f"^{wanted}$")
    page.keyboard.press("ArrowDown")
    playwright.expect(page.locator("#unit")).to_have_value("6")
    page.keyboard.press("Shift+ArrowRight")
    seen(page, ".transport output", "^13 / 21")
    page.keyboard.press("End")
    seen(page, ".transport output", "^21 / 21")


def test_it_plays_pauses_and_shows_the_inside_of_a_step(address: str, visit: Open) -> None:
    page = visit(address)
    seen(page, ".transport output", "11 / 21")
    page.locator("#speed").click()
    page.keyboard.press("Home")
    page.locator("#play").click()
    seen(page, ".transport output", "^(7|8|9) / 21")
    page.locator("#play").click()
    assert page.locator("#play").inner_text() == "▶"
    page.locator("#stages").click()
    playwright.expect(page.locator(".equation.now")).to_have_count(1)
    playwright.expect(page.locator("[data-stage=input].now")).to_have_count(1)
    page.keyboard.press("ArrowRight")
    playwright.expect(page.locator(".equation.now")).to_have_count(0)


def test_pointing_at_a_map_moves_every_cursor(address: str, visit: Open) -> None:
    page = visit(address)
    seen(page, ".transport output", "11 / 21")
    plane = page.locator("[data-name=cell] .plane")
    box = plane.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.5)
    playwright.expect(page.locator(".tip")).to_be_visible()
    seen(page, ".tip", "cell c: .+ unit 3 · 12")
    assert page.locator(".ghost:not([hidden])").count() == page.locator(".plane").count()
    page.mouse.down()
    page.mouse.up()
    seen(page, ".transport output", "12 / 21")
    playwright.expect(page.locator("#unit")).to_have_value("3")
    page.locator("#products summary").click()
    seen(page, "#products table", "x\\[")


def test_typed_numbers_run_and_wrong_ones_are_told(address: str, visit: Open) -> None:
    page = visit(address)
    page.locator("#type").click()
    page.locator("#text").fill("1 2\n3 4\n5 6")
    page.locator("#run").click()
    seen(page, ".transport output", "/ 3")
    page.locator("#text").fill("1 2\n3 zwei")
    page.locator("#text").press("Control+Enter")
    seen(page, ".mistake", "got 'zwei'")
    page.locator("#sample").select_option("4")
    seen(page, ".transport output", "/ 21")
    playwright.expect(page.locator(".mistake")).to_be_hidden()


def test_sentences_are_read_word_by_word(visit: Open) -> None:
    with served(Reader(), ["the cat sat on a mat .", "a dog sat ."]) as address:
        page = visit(address)
        seen(page, ".ribbon .now", "^on$")
        page.locator(".ribbon span", has_text="cat").click()
        seen(page, ".beside h3", "Step 2 · cat")
        page.locator("#type").click()
        page.locator("#text").fill("a dog sat on the cat")
        page.locator("#text").press("Enter")
        seen(page, ".transport output", "/ 6")
        seen(page, ".equation[data-stage=update]", "keeps")
        page.locator("#text").fill("a unicorn sat")
        page.locator("#text").press("Enter")
        seen(page, ".mistake", "does not know 'unicorn'")
        page.locator("#sample").select_option("1")
        page.locator("#tab-mattered").click()
        idle(page)
        assert page.locator(".marked span").all_inner_texts() == ["a", "dog", "sat", "."]


@pytest.mark.parametrize(("scheme", "locale"), [("light", "en-GB"), ("dark", "zh-CN")])
def test_every_tab_opens_wide_and_narrow(address: str, visit: Open, scheme: str, locale: str) -> None:
    page = visit(address, color_scheme=scheme, locale=locale)
    for tab in TABS:
        page.locator(f"#tab-{tab}").click()
        idle(page)
        assert page.locator("#view .panel").count() > 0, tab
        playwright.expect(page.locator(".mistake:not([hidden])")).to_have_count(0)
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), tab
        page.set_viewport_size({"width": 1280, "height": 900})
    assert page.evaluate("() => document.documentElement.dataset.theme") == scheme


def test_language_and_colours_are_changed_and_remembered(address: str, visit: Open) -> None:
    page = visit(address, color_scheme="light")
    seen(page, "#tab-watch", "Watch it run")
    page.locator("#language").click()
    seen(page, "#tab-watch", "看它运行")
    before = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") != before
    page.reload()
    seen(page, "#tab-watch", "看它运行")
    assert page.evaluate("() => document.documentElement.dataset.theme") == "dark"
    page.locator("#language").click()
    seen(page, "#tab-watch", "Watch it run")


def test_editing_a_unit_changes_the_answer(address: str, visit: Open) -> None:
    page = visit(f"{address}/#edit")
    idle(page)
    before = page.locator(".answers td").first.inner_text()
    page.locator("#which").fill("2")
    page.locator("#to").fill("5")
    page.locator("#to").press("Enter")
    playwright.expect(page.locator(".answers .after")).not_to_have_text(before)
    after = page.locator(".answers .after").inner_text()
    page.locator(".chart .unit").nth(4).click()
    playwright.expect(page.locator("#which")).to_have_value("4")
    playwright.expect(page.locator(".answers .after")).not_to_have_text(after)
    page.locator("#every").check()
    playwright.expect(page.locator("#which")).to_be_disabled()


def test_the_lesson_from_end_to_end(address: str, visit: Open) -> None:
    page = visit(f"{address}/#learn")
    seen(page, "#wanted", "0.70")
    page.locator(".sequence .knob").nth(3).press("ArrowDown")
    seen(page, "#wanted", "0.60")
    page.locator("#next").click()
    page.locator("#r").fill("0")
    seen(page, ".verdict", "0.00 · h′")
    page.keyboard.press("Escape")
    page.locator("#next").click()
    page.locator("#time").fill("20")
    seen(page, ".verdict", "= ")
    page.locator("#next").click()
    page.locator("#recurrent").fill("0.3")
    seen(page, "#fate", "vanishes")
    page.locator("#recurrent").fill("1.5")
    seen(page, "#fate", "explodes")
    playwright.expect(page.locator(".progress[data-state=trained]")).to_have_count(1, timeout=30_000)
    page.locator("#next").click()
    playwright.expect(page.locator("#answered.poor")).to_have_count(1)
    page.locator("#next").click()
    page.locator("#forget").fill("1")
    for step in (0, 9, 3):
        page.locator(".paintable rect").nth(step).click()
    playwright.expect(page.locator("#solved.good")).to_have_count(1)
    page.locator("#next").click()
    playwright.expect(page.locator("#answered.good")).to_have_count(1)
    page.locator("#next").click()
    page.locator("#stages").click()
    playwright.expect(page.locator("[data-stage=forget].now")).to_have_count(1)
    page.locator("#next").click()
    page.locator("#forget").fill("0.985")
    seen(page, "#half", "45|46")
    page.keyboard.press("Tab")
    page.locator("#next").click()
    playwright.expect(page.locator("[data-kind=gru].good")).to_have_count(1)
    assert page.locator(".dots [aria-current=step]").inner_text() == "10"
    page.locator("#next").click()
    seen(page, ".transport output", "/ 21")


def test_the_pages_own_networks_answer_as_the_layers_do(address: str, visit: Open) -> None:
    from recurra.web.lesson import KINDS

    page = visit(f"{address}/#learn/5")
    playwright.expect(page.locator(".progress[data-state=trained]")).to_have_count(1, timeout=30_000)
    networks = json.loads(asked(address, "api/lesson")[1])["networks"]
    x = torch.randn(1, 13, 2)
    for kind, weights in networks.items():
        found = page.evaluate(
            "async ([kind, weights, xs]) => (await import('/js/tiny.js')).run(kind, weights, xs)",
            [kind, weights, x[0].tolist()],
        )
        layer = KINDS[kind](2, 6, batch_first=True)
        layer.load_state_dict({name: torch.tensor(weights[name]) for name in layer.state_dict()})
        assert torch.allclose(torch.tensor(found["h"]), layer.trace(x)[0].hidden[0], atol=1e-5)


def test_two_browsers_see_each_its_own(address: str, visit: Open) -> None:
    one, other = visit(address), visit(address)
    for page, text in ((one, "1 2\n3 4"), (other, "5 6\n7 8\n9 1")):
        page.locator("#type").click()
        page.locator("#text").fill(text)
    one.locator("#run").click()
    other.locator("#run").click()
    seen(one, ".transport output", "/ 2")
    seen(other, ".transport output", "/ 3")
    one.keyboard.press("Tab")
    one.locator("#unit").fill("1")
    one.locator("#unit").press("Tab")
    seen(one, ".transport output", "/ 2")


def test_a_server_that_stops_is_told_and_waited_for(visit: Open) -> None:
    with served(Counter(), torch.randn(2, 9, 2)) as address:
        page = visit(address)
        seen(page, ".transport output", "/ 9")
    page.keyboard.press("ArrowDown")
    playwright.expect(page.locator("#down")).to_be_visible()
    seen(page, "#down", "server has stopped")
    with served(Counter(), torch.randn(2, 11, 2), port=int(address.rsplit(":", 1)[1])):
        playwright.expect(page.locator("#down")).to_be_hidden(timeout=15_000)
        seen(page, ".transport output", "/ 11")


def test_five_hundred_steps_of_256_units_do_not_stutter(visit: Open) -> None:
    with served(Counter(hidden=256), [torch.randn(500, 2), torch.randn(4001, 2)]) as address:
        page = visit(address)
        seen(page, ".transport output", "251 / 500")
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        # the page's own work for a step: a key, and the frame after it
        spent = page.evaluate(
            """async () => {
                const times = [];
                for (let step = 0; step < 60; step++) {
                    const before = performance.now();
                    const press = new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true });
                    document.dispatchEvent(press);
                    const key = performance.now() - before;
                    await new Promise((done) => requestAnimationFrame(done));
                    const frame = performance.now();
                    document.body.offsetHeight;
                    times.push(key + performance.now() - frame);
                }
                return times.sort((a, b) => a - b);
            }"""
        )
        seen(page, ".transport output", "311 / 500")
        assert spent[len(spent) // 2] < 16
        page.locator("#sample").select_option("1")
        seen(page, ".transport output", "/ 4001")
        seen(page, ".note", "4001 steps are too many to draw: one of 3 is shown")


def marked(page: Any) -> tuple[str, str]:
    return page.locator("#from").input_value(), page.locator("#until").input_value()


def test_a_search_about_to_be_made_is_not_made_twice(address: str, visit: Open) -> None:
    page = visit(f"{address}/#search")
    page.locator("#range").wait_for()
    idle(page)
    page.wait_for_timeout(500)
    asked_for: list[str] = []
    page.on("request", lambda request: asked_for.append(request.url) if "search" in request.url else 0)
    page.evaluate(
        """() => {
          const arrow = new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true });
          document.querySelector("#range").dispatchEvent(arrow);
          const from = document.querySelector("#from");
          from.value = 2;
          from.dispatchEvent(new Event("change"));
        }"""
    )
    idle(page)
    page.wait_for_timeout(700)
    assert len(asked_for) == 1
    assert marked(page)[0] == "2"


def test_a_range_is_marked_and_a_hit_is_jumped_to(address: str, visit: Open) -> None:
    page = visit(f"{address}/#search")
    page.locator("#only").uncheck()
    page.locator("#threshold").fill("-0.01")
    idle(page)
    box = page.locator("#range").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 4.5 / 21, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 7.5 / 21, box["y"] + 90)
    page.mouse.up()
    assert marked(page) == ("5", "8")
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowLeft", "ArrowLeft"):
        page.locator("#range").press(key)
    assert marked(page) == ("6", "8")
    assert page.locator("#range").get_attribute("aria-valuetext").startswith("Range from step 6 to 8.")
    page.locator("#from").fill("3")
    page.locator("#from").press("Tab")
    idle(page)
    _, arrays = unpacked(asked(address, "api/trace", {"sample": {"index": 0}, "module": "rnn"})[1])
    wanted = {unit for unit in range(7) if (arrays["hidden"][2:8, unit] >= -0.01).all()}
    chips = page.locator("[data-found=on] .chip")
    playwright.expect(chips).to_have_count(len(wanted))
    assert {int(chip.get_attribute("data-unit")) for chip in chips.all()} == wanted
    unit = page.locator("[data-found=following] .score").first
    number = unit.get_attribute("data-unit")
    unit.press("Enter")
    seen(page, ".transport output", "^3 / 21")
    playwright.expect(page.locator("#unit")).to_have_value(number)
    page.locator("#tab-search").click()
    idle(page)
    assert marked(page) == ("3", "8")
    hit = page.locator("[data-found=nearest] .place").first
    step, sample = int(hit.get_attribute("data-step")) + 1, hit.locator(".where .quiet").inner_text()
    hit.click()
    seen(page, ".transport output", f"^{step} / 21")
    assert page.locator("#sample option:checked").inner_text() == sample


def test_memory_is_shown_before_and_after(address: str, visit: Open) -> None:
    page = visit(f"{address}/#memory")
    idle(page)
    seen(page, ".origin", "new network of the same build")
    seen(page, ".was", "^before: ")
    seen(page, ".verdict", "Before: [0-9]+ steps")
    titles = page.locator(".card").first.locator("title").all_text_contents()
    assert len(titles) == 7
    assert all(re.fullmatch(r"unit \d: [\d.]+ steps · before: [\d.]+", title) for title in titles)
    counts = [
        re.search(r": (\d+) units, before (\d+)$", title).groups()
        for title in page.locator(".card").nth(1).locator("title").all_text_contents()
    ]
    assert [sum(int(pair[place]) for pair in counts) for place in (0, 1)] == [7, 7]


def test_another_model_before_and_other_sizes(visit: Open) -> None:
    with served(Counter(), torch.randn(2, 9, 2), before=Counter(hidden=33)) as address:
        page = visit(f"{address}/#memory")
        idle(page)
        seen(page, ".origin", "other model that was given, Counter.*only the distributions are compared")


def test_refusals_come_in_the_pages_language(address: str, visit: Open) -> None:
    page = visit(address, locale="zh-CN")
    page.locator("#type").click()
    page.locator("#text").fill("1 zwei")
    page.locator("#run").click()
    seen(page, ".mistake", "这里需要数字，却收到 'zwei'")
    page.locator("#language").click()
    seen(page, ".mistake", "expected numbers, got 'zwei'")
    page.locator("#sample").select_option("0")
    page.locator("#tab-edit").click()
    idle(page)
    page.locator("#which").fill("99")
    page.locator("#which").press("Enter")
    seen(page, ".mistake", "expected 0 to 6, got 99")
    page.locator("#which").fill("1")
    page.locator("#which").press("Enter")
    playwright.expect(page.locator(".mistake")).to_be_hidden()
    page.locator("#tab-mattered").click()
    idle(page)
    page.locator("#component").fill("9")
    page.locator("#component").press("Enter")
    seen(page, ".mistake", "expected 0 to 0, got 9")
