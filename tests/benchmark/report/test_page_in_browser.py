"""The page of results in a real browser: sorting, filtering, provenance, keyboard, widths, schemes, paper.

Needs Chromium with its driver (Debian: chromium, chromium-driver) and selenium; skipped where one of them is missing.
"""

from __future__ import annotations

import base64
import math
import re
import shutil

import pandas as pd
import pytest
from checkout import ROOT
from hand_made import RISE, SISE, claim, facts_of, row
from omegaconf import OmegaConf

from sise.benchmark.report import page as report_page

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and chromedriver")
QUIET = ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
         "disable-component-update", "disable-sync", "disable-dev-shm-usage")  # fmt: skip
CAM = ("grad_cam", "paper", "Grad-CAM")


def cells():
    """Three explainers on VGG16, two on ResNet-50, one on photos; Grad-CAM has no EBPG on VGG16."""
    return [
        row(SISE, "EBPG", 50.0, published=60.54, status="other data", note="departs: mu=0.3", commit="0123456+"),
        row(RISE, "EBPG", 60.0, published=33.44, status="other data"),
        row(CAM, "EBPG", math.nan, 0, published=55.44, status="not run"),
        row(SISE, "Drop%", 30.0), row(RISE, "Drop%", 20.0), row(CAM, "Drop%", 5.0),
        row(SISE, "EBPG", 35.0, model="resnet50"), row(RISE, "EBPG", 9.0, model="resnet50"),
        row(SISE, "Drop%", 59.77, dataset="photos", published=59.77, difference=0.0, status="reproduced"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of a small page."""
    results = tmp_path_factory.mktemp("browser") / "results"
    facts_of(results)
    pd.DataFrame(cells()).to_csv(results / "t1_shapes.csv", index=False)
    words = "# T\n\n| a |\n|---|\n\n- Made by `python scripts/evaluate.py experiment=t1`.\n"
    (results / "t1_shapes.md").write_text(words)
    pd.DataFrame([claim("SISE", "RISE", "not held")]).to_csv(results / "t1_shapes_claims.csv", index=False)
    (results / "t1_shapes_claims.md").write_text("# C\n")
    sections = [{"title": "A paper", "about": "Of 2021.", "items": [
        {"item": "Table 1", "shows": "Metrics.", "files": {"t1_*": "Table 1"}}]}]  # fmt: skip
    cfg = {"results": str(results), "outputs": str(results / "none"), "page": str(results / "page.html"),
           "megabytes": 5, "sections": sections}  # fmt: skip
    return report_page.write(cfg).as_uri()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*QUIET, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def look(driver, *, width=1400, height=1000, scheme="light", media="screen"):
    """Sets the window, the colour scheme and the medium."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


@pytest.fixture
def browser(driver, page):
    """The page, opened afresh."""
    look(driver)
    driver.get("about:blank")
    driver.get(page)
    yield driver
    assert [entry["message"] for entry in driver.get_log("browser")] == []  # no error, nothing that the policy stopped


def find(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def shown(browser):
    """The lines that are shown, from the top: explainer, data set and network."""
    rows = [r for r in browser.find_elements(By.CSS_SELECTOR, "#lines tbody tr") if r.is_displayed()]
    of_row = [[row.get_attribute(f"data-{name}") for name in ("find", "dataset", "model")] for row in rows]
    return [f"{words.split()[0]} {dataset} {model}" for words, dataset, model in of_row]


def columns(browser):
    """The headings that are shown."""
    return [h.text for h in browser.find_elements(By.CSS_SELECTOR, "#lines thead th") if h.is_displayed()]


def choose(browser, name, value):
    """Chooses in a list, or types."""
    field = find(browser, f"#filters [name={name}]")
    if field.tag_name == "select":
        Select(field).select_by_value(value)
    else:
        field.clear()
        field.send_keys(value)


def reset(browser, key=None):
    """Shows all again, by a click or a key, and waits until the page has done what it does after the event."""
    button = find(browser, "#filters button[type=reset]")
    button.send_keys(key) if key else button.click()
    browser.execute_async_script("setTimeout(arguments[0])")


def head(browser, text):
    (found,) = (h for h in browser.find_elements(By.CSS_SELECTOR, "#lines thead th") if h.text.startswith(text))
    return found


ALL = ["sise shapes vgg16", "rise shapes vgg16", "grad-cam shapes vgg16", "sise shapes resnet50",
       "rise shapes resnet50", "sise photos vgg16"]  # fmt: skip


def order(browser, text):
    """The lines after a click on a column's heading, and what it says of itself."""
    head(browser, text).find_element(By.TAG_NAME, "button").click()
    marked = [h.text for h in browser.find_elements(By.CSS_SELECTOR, "#lines th[aria-sort]")]
    assert len(marked) == 1 and marked[0].startswith(text)
    return [ALL.index(line) for line in shown(browser)], head(browser, text).get_attribute("aria-sort")


# ------------------------------------------------------------------------------------------------ sorting, filtering


def test_columns_sort_better_first_then_worse_and_what_has_no_value_is_last(browser):
    assert shown(browser) == ALL
    assert order(browser, "EBPG") == ([1, 0, 3, 4, 2, 5], "descending")
    assert order(browser, "EBPG") == ([4, 3, 0, 1, 2, 5], "ascending")
    assert order(browser, "Drop%") == ([2, 1, 0, 5, 3, 4], "ascending")  # lower is better
    assert order(browser, "Explainer") == ([2, 1, 4, 0, 3, 5], "ascending")
    assert find(browser, "#filters output").text == "6 of 6 lines, by Explainer, ascending"
    reset(browser)
    assert shown(browser) == ALL and not browser.find_elements(By.CSS_SELECTOR, "th[aria-sort]")


@pytest.mark.parametrize(
    ("name", "value", "lines"),
    [
        ("model", "resnet50", [3, 4]),
        ("status", "other-data", [0, 1]),
        ("status", "reproduced", [5]),
        ("find", "rise/", [1, 4]),
        ("find", "Grad-CAM", [2]),
        ("find", "nothing like it", []),
    ],
)
def test_a_filter_leaves_the_lines_that_it_names(browser, name, value, lines):
    choose(browser, name, value)
    assert shown(browser) == [ALL[i] for i in lines]
    assert find(browser, "#filters output").text.startswith(f"{len(lines)} of 6 lines")


def test_filters_work_together_and_stay_in_the_address(browser, page):
    choose(browser, "dataset", "shapes")
    choose(browser, "model", "vgg16")
    choose(browser, "metric", "Drop%")
    assert [ALL.index(line) for line in shown(browser)] == [2, 1, 0]  # the metric's order, better first
    assert columns(browser) == ["Explainer", "Data set", "Network", "Drop% ↓", "Pairs", "Claims"]
    address = browser.current_url
    assert "#board?dataset=shapes&model=vgg16&metric=Drop%25" in address
    browser.get("about:blank")
    browser.get(address)
    assert [ALL.index(line) for line in shown(browser)] == [2, 1, 0] and "EBPG" not in columns(browser)
    assert find(browser, "#filters [name=metric]").get_attribute("value") == "Drop%"
    choose(browser, "metric", "EBPG")
    assert [ALL.index(line) for line in shown(browser)] == [1, 0, 2]  # not run, but published: shown, and last
    reset(browser)
    assert shown(browser) == ALL and browser.current_url in (page, page + "#board")


def test_a_card_leads_to_its_lines(browser):
    find(browser, "#explainer-rise a[data-filter]").click()
    assert [ALL.index(line) for line in shown(browser)] == [1, 4]


def test_other_tables_sort_too(browser):
    button = find(browser, "section[aria-labelledby=claims] thead button")
    button.click()
    assert find(browser, "section[aria-labelledby=claims] th[aria-sort]").get_attribute("aria-sort") == "ascending"


# ------------------------------------------------------------------------------------------------ provenance, keyboard


def open_(browser):
    return browser.find_elements(By.CSS_SELECTOR, ".why:popover-open")


def test_a_cell_opens_what_made_it(browser):
    find(browser, "#lines tbody td[data-metric=EBPG] button").click()
    (panel,) = open_(browser)
    text = panel.text
    for part in ("SISE", "VGG16 on shapes", "50.00 ± 1.00", "60.54", "° other data", "10 pairs",
                 "departs: mu=0.3", "python scripts/evaluate.py experiment=t1", "0123456+ (+: with changes)",
                 "129 + 1 passes", "not held", "EBPG: better than RISE"):  # fmt: skip
        assert part in text, part
    asked = panel.find_elements(By.CSS_SELECTOR, "tr.asked")
    assert [r.text.split()[0] for r in asked] == ["EBPG"]
    panel.find_element(By.CSS_SELECTOR, "button[aria-label=Close]").click()
    assert open_(browser) == []


def test_everything_goes_by_keyboard(browser):
    browser.execute_script("document.querySelector('#lines thead button').focus()")
    active = browser.switch_to.active_element
    active.send_keys(Keys.ENTER)
    assert head(browser, "Explainer").get_attribute("aria-sort") == "ascending"
    reset(browser, Keys.SPACE)
    (stop,) = browser.find_elements(By.CSS_SELECTOR, "#lines tbody button[tabindex='0']")  # one stop of the Tab key
    stop.send_keys(Keys.ARROW_DOWN)
    assert browser.switch_to.active_element.accessible_name.startswith("RISE, shapes, VGG16, EBPG: 60.00")
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    cell = browser.switch_to.active_element
    assert cell.accessible_name == "RISE, shapes, VGG16, Drop%: 20.00 ± 1.00. How it was made"
    cell.send_keys(Keys.ENTER)
    assert len(open_(browser)) == 1 and browser.switch_to.active_element.text.startswith("RISE")
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert open_(browser) == [] and browser.switch_to.active_element == cell
    cell.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)  # Grad-CAM, then over the empty cells of ResNet-50
    assert browser.switch_to.active_element.accessible_name.startswith("SISE, photos, VGG16, Drop%")


def test_everything_has_a_name(browser):
    for selector in ("select", "input", "button", "a[href]", "[role=region]", "[role=dialog]", "img"):
        for element in browser.find_elements(By.CSS_SELECTOR, selector):
            if element.is_displayed():
                assert element.accessible_name, element.get_attribute("outerHTML")[:200]


def test_without_scripts_everything_is_shown(browser, page):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get("about:blank")
        browser.get(page)
        text = find(browser, "body").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "Sorting and filtering need JavaScript" in text and "Show all" not in text
    for part in ("50.00", "± 1.00", "paper 60.54 °", "59.77", "SISE leads", "experiment=t1", "129 + 1"):
        assert part in text, part


# ------------------------------------------------------------------------------------------------ widths, paper


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The address of the page of the repository's own results."""
    cfg = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "report.yaml"), resolve=False)
    file = tmp_path_factory.mktemp("whole") / "page.html"
    cfg |= {"results": str(ROOT / "results"), "outputs": "none", "page": str(file)}
    return report_page.write(cfg).as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 420])
def test_the_repositorys_page_has_no_sideways_scroll(driver, whole, width, scheme):
    look(driver, width=width, scheme=scheme)
    driver.get(whole)
    wide, visible = driver.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert wide == visible <= width
    paper = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper)[:3])) > 600) == (scheme == "light")
    assert len(driver.find_elements(By.CSS_SELECTOR, "#lines tbody tr")) > 100
    first = find(driver, "#lines tbody th")
    scroll = "arguments[0].closest('.scroll').scrollLeft = arguments[1]"
    driver.execute_script(scroll, first, 300)
    assert first.rect["x"] >= 0  # the explainer's name stays when its numbers are scrolled
    driver.execute_script(scroll, first, 0)
    find(driver, "#lines tbody button").click()
    (panel,) = open_(driver)
    assert panel.rect["x"] >= 0 and panel.rect["x"] + panel.rect["width"] <= width
    assert [entry["message"] for entry in driver.get_log("browser")] == []
    fetched = driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []  # nothing from elsewhere


def test_on_paper_there_are_no_controls_and_nothing_is_cut(browser):
    look(browser, media="print", width=800)
    for selector in ("#filters", "nav", ".why"):
        assert not any(e.is_displayed() for e in browser.find_elements(By.CSS_SELECTOR, selector)), selector
    script = "return [...document.querySelectorAll('.scroll')].map(part => getComputedStyle(part).overflow)"
    assert set(browser.execute_script(script)) == {"visible"}
    shown = browser.execute_script(
        "return [...document.querySelectorAll('details:not(nav details, details details)')].map("
        "part => [part.classList.contains('detail'), part.lastElementChild.checkVisibility()])"
    )
    assert {detail for detail, _ in shown} == {True, False}
    assert all(visible != detail for detail, visible in shown)  # settings and long tables as they were left: closed
    printed = browser.execute_cdp_cmd("Page.printToPDF", {})["data"]
    assert base64.b64decode(printed).startswith(b"%PDF")
