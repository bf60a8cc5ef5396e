"""The report in a real browser: the Chromium of the system (`apt-get install chromium`), driven over its DevTools protocol."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from reported import make_data, make_run

from spnas_core.report.inputs import collect
from spnas_core.report.page import report_html

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
pytestmark = [
    pytest.mark.training,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; apt-get install chromium brings one"),
]
PHONE, DESK = 390, 1440


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("browser")
    plan, stage = make_run(folder, make_data(folder / "data", "Wide" * 30, "a rather long name of an image file {}.jpg"))
    (folder / "report.html").write_text(report_html(collect(plan, stage)))
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Browser, url: str) -> Iterator[Any]:
    """Open the report in a window; what the page logged, and asked of the network, must be nothing."""
    contexts, noise = [], list[str]()

    def open_page(width: int = DESK, scheme: Any = "light", **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        context.set_default_timeout(5000)
        page = context.new_page()
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on(
            "request",
            lambda request: noise.append(request.url) if request.url.split("#")[0] != url and "data:" not in request.url else None,
        )
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert noise == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_it_fits_and_opens_at_once(opened: Any, width: int, scheme: str) -> None:
    page = opened(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") < 2000
    assert page.evaluate("[...document.images, ...document.querySelectorAll('image')].length") == 12
    colours = page.evaluate("['backgroundColor', 'color'].map((name) => getComputedStyle(document.body)[name].match(/\\d+/g).map(Number))")
    dark, light = sorted(map(sum, colours))
    assert (sum(colours[0]) == dark) == (scheme == "dark")
    assert light - dark > 500


def test_filters_hold_for_chart_family_and_table(opened: Any) -> None:
    page = opened()
    parts = ("#trials tbody tr", ".tree > li", ".dot[data-trial]", "polyline[data-trial]")

    def visible() -> list[int]:
        return [sum(one.is_visible() for one in page.locator(part).all()) for part in parts]

    assert visible() == [5, 5, 5, 4]  # the one that failed has no curve
    page.select_option("select[name=stage]", "serial")
    assert page.inner_text("form output") == "3 of 5 trials"
    assert visible() == [3, 3, 3, 2]
    page.select_option("select[name=round]", "serial 2")
    assert visible() == [1, 1, 1, 1]
    page.select_option("select[name=state]", "failed")
    assert visible() == [0, 0, 0, 0]
    page.click("form button")
    page.select_option("select[name=state]", "failed")
    assert visible() == [1, 1, 1, 0]
    page.click("form button")
    assert visible() == [5, 5, 5, 4]


def test_a_point_tells_which_trial_it_is(opened: Any) -> None:
    page = opened()
    page.hover(".dot[data-trial='2'] .hit")
    assert "serial r1 c2" in page.inner_text("#detail")
    assert "failed: diverged" in page.inner_text("#detail")
    phone = opened(PHONE, has_touch=True, is_mobile=True)
    phone.tap(".dot[data-trial='4'] .hit")
    assert "parallel r1 c1" in phone.inner_text("#detail")
    assert "#" not in phone.url


def test_links_lead_to_what_they_name(opened: Any) -> None:
    page = opened()
    for link in page.locator("nav a").all():
        link.click()
        target = page.locator(link.get_attribute("href"))
        assert target.count() == 1
        assert target.evaluate("(one) => one.getBoundingClientRect().top < innerHeight && one.getBoundingClientRect().bottom > 0")
    page.click("#trials a >> nth=3")
    assert page.url.endswith("#trial-3")


def test_tables_sort(opened: Any) -> None:
    page = opened()
    values = "[...document.querySelectorAll('#trials td[data-name=AP]')].map((one) => Number(one.querySelector('data')?.value ?? -1))"
    page.click("#trials th:nth-child(2) button")
    assert page.evaluate(values) == sorted(page.evaluate(values), reverse=True)
    page.click("#trials th:nth-child(2) button")
    assert page.evaluate(values) == sorted(page.evaluate(values))


def test_boxes_can_be_hidden(opened: Any) -> None:
    page = opened()
    for name in ("truth", "found"):
        boxes = page.locator(f".is-{name}")
        assert boxes.count() > 12
        assert boxes.first.is_visible()
        page.uncheck(f"#{name}")
        assert not any(box.is_visible() for box in boxes.all())


def test_it_can_be_read_without_script(opened: Any) -> None:
    page = opened(java_script_enabled=False)
    assert not page.is_visible("form.filter")
    assert page.locator("#trials tbody tr").count() == 5
    page.click(".dot[data-trial='4'] .hit")
    assert page.url.endswith("#trial-4")
