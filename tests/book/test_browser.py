"""The built book in a real browser: no error, nothing from elsewhere, no sideways scrolling, text that can be read in
either theme, and every figure moves.

Needs a Chromium on the machine (`apt-get install chromium`), and is left out where there is none.
"""

import browsers
import pytest
from test_book import ROOT, build, copied  # the same book, built once more

pytestmark = pytest.mark.skipif(browsers.CHROMIUM is None, reason="no Chromium on this machine")

SCROLLED = """() => [...document.querySelectorAll('main :is(pre, table, .cell_output .output)')]
    .filter(e => e.offsetParent && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX))
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.trim().slice(0, 80))"""


FAINT = """() => {  // text whose contrast with what it stands on is below 3.5 to 1
  const rgb = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0.5) { return c; }
    }
    return [255, 255, 255];
  };
  const found = [], walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim(), e = walk.currentNode.parentElement;
    if (text.length < 2 || !e.offsetParent || e.closest('mjx-container, svg')) { continue; }
    const [low, high] = [rgb(getComputedStyle(e).color), ground(e)].map(luminance).sort((a, b) => a - b);
    if ((high + 0.05) / (low + 0.05) < 3.5) { found.push(text.slice(0, 80)); }
  }
  return found;
}"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(copied(tmp_path_factory.mktemp("browser") / "source"))


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright.sync_api")
    with browsers.playwright() as p:
        chromium = p.chromium.launch(executable_path=browsers.CHROMIUM, args=browsers.QUIET)
        yield chromium
        chromium.close()


def pages():
    found = [*ROOT.glob("book/*.md"), *ROOT.glob("book/*.ipynb"), *ROOT.glob("chapters/*.ipynb")]
    return sorted(f"{path.parent.name}/{path.stem}.html" for path in found)


def opened(browser, built, page, width, theme="light"):
    """The page, and what went wrong while it was opened."""
    tab, wrong = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme), []
    tab.add_init_script(f"for (const name of ['mode', 'theme']) {{ localStorage.setItem(name, '{theme}'); }}")
    tab.set_default_timeout(300_000)  # a machine may be busy: what is slow is not wrong
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
    tab.goto(f"file://{built}/{page}", wait_until="load")
    return tab, wrong


@pytest.mark.parametrize("page", pages())
def test_a_page_opens_without_an_error_and_fits(browser, built, page):
    for width, theme in ((390, "dark"), (1280, "light")):
        tab, wrong = opened(browser, built, page, width, theme)
        assert wrong == []
        over = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, f"{page} can be scrolled sideways by {over} px at {width}"
        assert tab.evaluate("document.documentElement.dataset.theme") == theme and tab.evaluate(FAINT) == []
        if width == 1280:  # nor can a cell: code, what it prints, and tables
            assert tab.evaluate(SCROLLED) == []
        tab.close()


@pytest.mark.parametrize("page", pages())
def test_each_interactive_figure_follows_its_sliders(browser, built, page):
    tab, wrong = opened(browser, built, page, 1280)
    for figure in tab.query_selector_all(".ldm-lookup"):

        def frame(figure=figure):
            return [slot.inner_html() for slot in figure.query_selector_all(".ldm-slot")]

        seen = {tuple(frame())}
        for slider in figure.query_selector_all("input"):
            options = slider.evaluate("s => JSON.parse(s.dataset.options)")
            for at in (0, len(options) - 1):
                slider.evaluate("(s, v) => { s.value = v; s.dispatchEvent(new Event('input')); }", at)
                assert slider.evaluate("s => s.nextElementSibling.textContent") == options[at]
                assert slider.get_attribute("aria-valuetext") == options[at]
                seen.add(tuple(frame()))
        assert len(seen) > 1, "the figure does not change"
        assert all(any(cells) for cells in seen), "an empty frame"
    assert wrong == []
    tab.close()


def test_the_landing_pages_film_plays_pauses_and_follows_its_slider(browser, built):
    tab, wrong = opened(browser, built, "book/intro.html", 1280)
    slider, says, button = (tab.locator(f".ldm-walk {name}") for name in ("input", "output", "button"))
    assert not tab.locator(".ldm-walk-still").is_visible()
    last, box = int(slider.get_attribute("max")), tab.locator(".ldm-walk-box").first

    at = slider.input_value()
    tab.wait_for_function("at => document.querySelector('.ldm-walk input').value !== at", arg=at)  # it plays
    button.click()
    assert button.inner_text() == "Play"
    at = slider.input_value()
    tab.wait_for_timeout(3000)  # longer than any frame stands
    assert slider.input_value() == at

    frames, read = set(), {}
    for i in (0, 3, last // 2, last - 3, last):
        slider.evaluate("(s, v) => { s.value = v; s.dispatchEvent(new Event('input')); }", i)
        read[i] = says.inner_text()
        assert slider.get_attribute("aria-valuetext") == read[i]
        frames.add(box.screenshot())
    assert len(frames) == len(set(read.values())) == 5
    assert "t = 150:" in read[3] and "forward" in read[3]
    assert "t = 150:" in read[last - 3] and "backward" in read[last - 3] and "step 17 of 20" in read[last - 3]
    assert "t = 1000" in read[last // 2]
    # each of the three boxes shows one whole frame: at the last one, its sheet's right edge is the box's
    for element in tab.query_selector_all(".ldm-walk-box"):
        gap = "b => b.querySelector('img').getBoundingClientRect().right - b.getBoundingClientRect().right"
        assert abs(element.evaluate(gap)) < 0.5
    button.click()
    assert button.inner_text() == "Pause"
    slider.evaluate("s => s.dispatchEvent(new Event('input'))")  # a hand on the slider stops the film
    assert button.inner_text() == "Play" and wrong == []
    tab.close()


def test_the_film_stands_still_for_those_who_ask_for_it_and_without_scripts(browser, built):
    for context in ({"reduced_motion": "reduce"}, {"java_script_enabled": False}):
        tab = browser.new_page(**context)
        tab.set_default_timeout(300_000)
        tab.goto(f"file://{built}/book/intro.html", wait_until="load")
        film, still = tab.locator(".ldm-walk-film"), tab.locator(".ldm-walk-still")
        if "reduced_motion" in context:
            assert film.is_visible() and tab.locator(".ldm-walk button").inner_text() == "Play"
            at = tab.locator(".ldm-walk input").input_value()
            tab.wait_for_timeout(1000)
            assert tab.locator(".ldm-walk input").input_value() == at
        else:
            assert still.is_visible() and not film.is_visible()
        tab.close()


@pytest.mark.parametrize("page", pages())
def test_each_self_check_answers(browser, built, page):
    tab, wrong = opened(browser, built, page, 1280)
    for check in tab.query_selector_all(".ldm-quiz"):
        assert not any(p.is_visible() for p in check.query_selector_all(".ldm-feedback"))
        questions = check.query_selector_all("fieldset")
        for question in questions:
            for radio in question.query_selector_all("input"):
                radio.check()
                shown = [p for p in question.query_selector_all(".ldm-feedback") if p.is_visible()]
                assert len(shown) == 1
                word = "Right. " if radio.get_attribute("data-right") == "1" else "No. "
                assert shown[0].inner_text().startswith(word)
            question.query_selector("input[data-right='1']").check()
        assert check.query_selector(".ldm-score").inner_text() == f"{len(questions)} of {len(questions)} right"
    assert wrong == []
    tab.close()
