"""The page about runs in a browser: it fits the window, can be read and printed, and its controls do what they say."""

import pytest
from browser import Browser, find_browser
from reports import base_config, write_run

from vmp.report.page import write_report


@pytest.fixture(scope="module")
def browser():
    path = find_browser()
    if not path:
        pytest.skip("no browser here: apt-get install chromium")
    one = Browser(path)
    yield one
    one.close()


def choose(browser: Browser, select: str, text: str) -> None:
    """Choose the first option that contains the text."""
    browser.evaluate(
        f"(() => {{ const s = document.getElementById({select!r});"
        f" s.value = [...s.options].find((o) => o.text.includes({text!r})).value;"
        " s.dispatchEvent(new Event('change')) })()"
    )


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_opens_without_errors_and_fits_the_window(report, browser, width, scheme):
    browser.open(report[2], width=width, scheme=scheme)
    browser.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert browser.evaluate("[document.documentElement.scrollWidth <= innerWidth, innerWidth]") == [
        True,
        width,
    ]
    over = browser.evaluate(
        "[...document.querySelectorAll('body *')].filter((e) => !e.closest('.scroll, pre, .unseen, .skip, select')"
        " && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert over == []
    bright = browser.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (bright > 200) == (scheme == "light")
    assert browser.evaluate("document.querySelectorAll('#charts svg').length") == 4
    assert browser.evaluate(
        "[...document.images].every((i) => i.naturalWidth > 0) && document.images.length > 0"
    )
    assert browser.problems == []


@pytest.mark.slow
def test_the_colour_switch(report, browser):
    browser.open(report[2], scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = browser.evaluate(background)
    browser.evaluate("document.querySelector('#theme [value=dark]').click()")
    assert browser.evaluate(background) != light
    browser.evaluate("document.querySelector('#theme [value=auto]').click()")
    assert browser.evaluate(background) == light
    assert browser.problems == []


@pytest.mark.slow
def test_the_lambda_switch_changes_the_curves(report, browser):
    browser.open(report[2])
    choose(browser, "curves-dataset", "manifest")
    lines = "[...document.querySelectorAll('[data-what=slope] [data-line]')].map((g) => g.dataset.line)"
    assert browser.evaluate("[...document.querySelectorAll('#lambdas input')].map((i) => i.value)") == [
        *("0", "1", "2.5", "20"),
        "none",
    ]
    before = browser.evaluate(lines)
    assert {"0", "1", "2.5"} <= set(before)
    browser.evaluate("document.querySelector('#lambdas input[value=\"2.5\"]').click()")
    after = browser.evaluate(lines)
    assert set(before) - set(after) == {"2.5"}
    browser.evaluate("document.querySelector('[data-what=slope] svg').focus()")
    browser.key("ArrowRight")
    first = browser.evaluate("document.querySelector('[data-what=slope] .readout').textContent")
    browser.key("ArrowRight")
    second = browser.evaluate("document.querySelector('[data-what=slope] .readout').textContent")
    assert first.startswith("epoch 1: ")
    assert second.startswith("epoch 2: ")
    assert browser.problems == []


@pytest.mark.slow
def test_sorting_and_filtering(report, browser):
    browser.open(report[2])
    column = "[...document.querySelectorAll('#runs-table tbody tr:not([hidden])')].map((r) => r.cells[6].dataset.value)"
    head = "document.querySelectorAll('#runs-table th button')[6]"
    for direction in (-1, 1):
        browser.evaluate(f"{head}.click()")
        values = browser.evaluate(column)
        assert values[-1] == ""  # the unfinished run
        numbers = [float(v) for v in values[:-1]]
        assert numbers == sorted(numbers, reverse=direction < 0)
    browser.evaluate(
        "(i => { i.value = 'gym99'; i.dispatchEvent(new Event('input', {bubbles: true})) })"
        "(document.querySelector('#runs-filter [name=words]'))"
    )
    assert len(browser.evaluate(column)) == 1
    assert browser.evaluate("document.getElementById('runs-count').textContent") == "1 of 6 runs"
    assert browser.problems == []


@pytest.mark.slow
def test_class_names_are_text_and_cells_show_their_counts(report, browser):
    browser.open(report[2])
    choose(browser, "confusion-run", "manifest")
    assert "<script>alert('x')</script>" in browser.evaluate(
        "document.getElementById('confusion-body').textContent"
    )
    browser.evaluate("document.querySelector('#confusion svg').scrollIntoView({behavior: 'instant'})")
    box = browser.evaluate("document.querySelector('#confusion .cell').getBoundingClientRect().toJSON()")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    browser.point(x, y)
    assert "of brighter taken for brighter" in browser.evaluate(
        "document.querySelector('#confusion .readout').textContent"
    )
    choose(browser, "confusion-run", "gym99")
    assert browser.evaluate("document.querySelectorAll('#confusion .cell').length") > 99
    assert browser.problems == []


@pytest.mark.slow
def test_thousands_of_classes_share_cells(tmp_path, browser):
    names = [f"class {c}" for c in range(1000)]
    write_run(tmp_path / "out" / "a", base_config(), classes=names, count=2000)
    write_report([tmp_path / "out"], out=tmp_path / "r.html", clips=0)
    browser.open(tmp_path / "r.html")
    said = browser.evaluate("document.getElementById('confusion-body').textContent")
    assert "4 classes per cell" in said
    width = browser.evaluate("document.querySelector('#confusion svg').getAttribute('width')")
    assert float(width) < 2000
    assert browser.evaluate("document.querySelectorAll('#confusion .cell').length") >= 250  # the diagonal
    assert browser.problems == []


# elements with text whose contrast to their background is below 4.5 to 1 (WCAG 2, AA)
CONTRAST = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  function rgba(color) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  }
  function luminance(color) {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgba(color).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  const low = new Set();
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest("svg, script, style, option") || !own(e) || !e.getClientRects().length) continue;
    let under = e;
    while (under !== document.body && !rgba(getComputedStyle(under).backgroundColor)[3]) under = under.parentElement;
    const p = luminance(getComputedStyle(e).color) + 0.05;
    const q = luminance(getComputedStyle(under).backgroundColor) + 0.05;
    if (Math.max(p, q) / Math.min(p, q) < 4.5) low.add(e.tagName + "." + e.className);
  }
  return [...low];
})()
"""


@pytest.mark.slow
def test_in_print_the_page_is_light_and_complete(report, browser):
    browser.open(report[2], scheme="dark")
    browser.evaluate("document.querySelector('#theme [value=dark]').click()")
    browser.send("Emulation.setEmulatedMedia", media="print")
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    assert browser.evaluate(ground) > 200
    assert browser.evaluate("getComputedStyle(document.querySelector('.controls')).display") == "none"
    hidden = (
        "[...document.querySelectorAll('.tall')].filter((e) => e.scrollHeight > e.clientHeight + 2).length"
    )
    assert browser.evaluate(hidden) == 0
    browser.send("Emulation.setEmulatedMedia", media="")
    browser.evaluate("document.querySelector('#theme [value=auto]').click()")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_aa(report, browser, scheme):
    browser.open(report[2], scheme=scheme)
    browser.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert browser.evaluate(CONTRAST) == []
