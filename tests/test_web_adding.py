"""The adding problem through the lens: one unit holds the first number, the page shows it, edits prove it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from test_examples_layers import EXAMPLES
from torch import Tensor

from recurra import lens

pytest.importorskip("xarray", reason="the lens needs xarray: pip install 'recurra[lens]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SEEDS = (2, 7)
Adding = Any


@cache
def example() -> Adding:
    """examples/adding_lens.py as a module."""
    found = importlib.util.spec_from_file_location("adding_lens", EXAMPLES / "adding_lens.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@cache
def network(seed: int) -> Any:
    """It, trained. The global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return example().trained(seed)


@pytest.fixture(params=SEEDS)
def case(request: pytest.FixtureRequest) -> tuple[Any, Any, list[Any]]:
    """A trained network, rows that it has not seen, and its units, the one that holds the number first."""
    model, problem = network(request.param), example().unseen()
    return model, problem, example().holders(model, problem)


def answers(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)[:, 0]


def share(change: Tensor, wanted: Tensor) -> float:
    """The least-squares slope of `change` on `wanted`, through zero."""
    return float((change @ wanted) / (wanted @ wanted))


@pytest.mark.parametrize("seed", SEEDS)
def test_it_learns_to_add(seed: int) -> None:
    model = network(seed)
    x, numbers, places = example().unseen()
    assert bool((x.gather(1, places[:, :, None].expand(-1, -1, 2))[:, :, 1] == 1).all())
    assert bool((x[:, :, 1].sum(1) == 2).all())
    missed = (answers(model, x) - numbers.sum(1)).square().mean().sqrt()
    assert missed < numbers.sum(1).std() / 6


def test_the_lens_finds_the_unit_that_holds_the_first_number(case: tuple[Any, Any, list[Any]]) -> None:
    model, problem, units = case
    assert abs(units[0].score) > 0.95
    # the same without the search: at every step of the second half until the second number comes
    cell = lens.trace(model, problem.x)["cell"].values[0, 0, :, :, units[0].unit]
    for step in range(example().HALF, example().HALF + 5):
        rows = (problem.places[:, 1] > step).numpy()
        found = np.corrcoef(cell[rows, step], problem.numbers[rows, 0].numpy())[0, 1]
        assert found * np.sign(units[0].score) > 0.9


def test_another_rows_memory_puts_its_number_into_the_answer(case: tuple[Any, Any, list[Any]]) -> None:
    model, problem, units = case
    own = answers(model, problem.x)
    wanted = problem.numbers[:, 0].roll(-1) - problem.numbers[:, 0]
    changes = [example().swap(model, problem, one.unit) - own for one in units]
    assert np.corrcoef(changes[0], wanted)[0, 1] > 0.95
    assert 0.7 < share(changes[0], wanted) < 1.3
    for change in changes[1:]:
        assert abs(share(change, wanted)) < share(changes[0], wanted) / 2
    silent = changes[-1].abs().max()
    assert silent < changes[0].abs().max() / 5


@pytest.mark.parametrize(("name", "late"), [("cell", 0), ("forget", 1)])
def test_without_the_memory_only_the_second_number_is_left(
    case: tuple[Any, Any, list[Any]], name: str, late: int
) -> None:
    model, problem, units = case
    step = example().HALF - 1 + late

    def weights(unit: int) -> Any:
        """Of each number in the answer, after the edit."""
        edit = lens.Edit(name, to=0.0, units=unit, steps=step)
        after = lens.what_if(model, problem.x, edits=[edit]).after[:, 0]
        terms = torch.cat((problem.numbers, torch.ones(len(after), 1)), dim=1)
        return torch.linalg.lstsq(terms, after[:, None]).solution[:2, 0].tolist()

    first, second = weights(units[0].unit)
    assert abs(first) < 0.3 < 0.7 < second < 1.3
    first, second = weights(units[-1].unit)
    assert first > 0.7
    assert second > 0.7


def test_the_example_prints_what_the_lens_finds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, problem = network(SEEDS[0]), example().unseen()
    monkeypatch.setattr(example(), "trained", {SEEDS[0]: model}.__getitem__)
    monkeypatch.setattr(sys, "argv", ["adding_lens.py"])
    example().main()
    printed = capsys.readouterr().out
    unit, *_ = example().holders(model, problem)
    own, swapped = answers(model, problem.x)[0], example().swap(model, problem, unit.unit)[0]
    assert f"{unit.unit:4}  {unit.score:+.2f}" in printed
    assert f"answer {own:+.2f}" in printed
    other = problem.numbers[1, 0]
    assert f"answer {swapped:+.2f}  unit {unit.unit} with the next row's memory, {other:+.2f}" in printed


@pytest.fixture(scope="module")
def page() -> Iterator[tuple[Any, Any, Any, list[Any]]]:
    """The page on the trained network in Chromium, and what it shows. Fails for anything on the console."""
    pytest.importorskip("fastapi", reason="the page needs FastAPI: pip install 'recurra[lens]'")
    pytest.importorskip("uvicorn", reason="the page needs uvicorn: pip install 'recurra[lens]'")
    driver = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    from web_server import served

    model, problem, said = network(SEEDS[0]), example().unseen(), []
    with served(model, example().samples()) as address, driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        size = {"width": 1280, "height": 920}
        context = browser.new_context(viewport=size, locale="en-GB", color_scheme="light")
        context.set_default_timeout(15_000)
        opened = context.new_page()
        opened.on("console", lambda one: said.append(one.text) if one.type in ("error", "warning") else 0)
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.goto(address)
        yield opened, model, problem, example().holders(model, problem)
        browser.close()
    assert not said


def shown(page: Any, selector: str, pattern: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector).first).to_have_text(re.compile(pattern), timeout=15_000)


def colours(page: Any, name: str, steps: int, units: int) -> Any:
    """(T, H, 3): the colour drawn in the middle of each square of a heat map, as the eye has it."""
    drawn = page.evaluate(
        """([name, steps, units]) => {
            const canvas = document.querySelector(`[data-name=${name}] canvas`);
            const copy = new OffscreenCanvas(canvas.width, canvas.height);
            const context = copy.getContext("2d", { willReadFrequently: true });
            context.drawImage(canvas, 0, 0);
            const wide = canvas.width / steps, high = canvas.height / units;
            const found = [];
            for (let t = 0; t < steps; t++)
                for (let u = 0; u < units; u++)
                    found.push([...context.getImageData((t + 0.5) * wide, (u + 0.5) * high, 1, 1).data]);
            return found;
        }""",
        [name, steps, units],
    )
    return np.array(drawn, float).reshape(steps, units, 4)[..., :3]


closed_by_itself = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Playwright's own loop


@closed_by_itself
def test_the_page_shows_by_eye_which_unit_holds_it(page: tuple[Any, Any, Any, list[Any]]) -> None:
    opened, model, problem, units = page
    unit, steps = units[0].unit, example().T
    first, second = problem.places[0].tolist()
    shown(opened, ".transport output", f"/ {steps}$")
    opened.locator("#unit").fill(str(unit))
    opened.locator("#unit").press("Tab")
    # one step of the first number is enough to jump to a level that stays until the second
    drawn = colours(opened, "cell", steps, example().H)
    level, before = drawn[first:second].mean(0), drawn[:first].mean(0)
    jump = np.linalg.norm(level - before, axis=-1)
    restless = np.linalg.norm(drawn[first:second].std(0), axis=-1) + np.linalg.norm(
        drawn[:first].std(0), axis=-1
    )
    assert int((jump - restless).argmax()) == unit
    assert jump[unit] > 3 * restless[unit]
    # and the numbers beside the map are the traced ones
    cell = lens.trace(model, problem.x[:1])["cell"].values[0, 0, 0, :, unit]
    opened.locator("body").press("Home")
    for step in range(steps):
        if step in (0, first, first + 1, (first + second) // 2, second - 1, second, steps - 1):
            wanted = f"{cell[step]:.2f}".replace("-", "−").replace("−0.00", "0.00")
            shown(opened, "[data-name=cell] .value", f"^{wanted}$")
        opened.keyboard.press("ArrowRight")


@closed_by_itself
def test_editing_that_unit_on_the_page_changes_the_answer(page: tuple[Any, Any, Any, list[Any]]) -> None:
    opened, model, problem, units = page
    x, numbers = problem.x[:1], problem.numbers[0]
    first, second = problem.places[0].tolist()
    with opened.expect_response("**/api/find/ablated"):  # the last that the tab asks for when it opens
        opened.locator("#tab-edit").click()

    def told(value: float) -> str:
        return f"^{value:.3f}$".replace("-", "−")

    before = float(answers(model, x)[0])
    for unit, steps in ((units[-1].unit, None), (units[0].unit, None), (units[0].unit, (first, second))):
        span = None if steps is None else range(*steps)
        edit = lens.Edit("cell", to=0.0, units=unit, steps=span)
        after = float(lens.what_if(model, x, edits=[edit]).after[0, 0])
        fields = {"which": unit, "to": 0}
        if steps is not None:  # the page counts steps from 1, and its last one too
            fields |= {"from": steps[0] + 1, "until": steps[1]}
        for name, value in fields.items():
            field = opened.locator(f"#{name}")
            if field.input_value() != f"{value}":
                with opened.expect_response("**/api/find/edited"):
                    field.fill(f"{value}")
                    field.press("Tab")
        shown(opened, ".answers td:not(.after)", told(before))
        shown(opened, ".answers .after", told(after))
        if unit == units[-1].unit:
            assert abs(after - before) < 0.1
        else:
            assert abs(after - before) > 0.5
    assert abs(after - float(numbers[1])) < 0.3  # the first is forgotten, the second is all there is
