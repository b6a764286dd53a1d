"""A film on a page: what its HTML holds, and that it plays, stops and stands still where it should (chapter 9)."""

import base64
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from ldm_course.page.films import film, sheet


def frames(n=4, height=6, width=10):
    """One grey level for each frame."""
    return np.stack([np.full((height, width, 3), 40 * k % 256, np.uint8) for k in range(n)])


def picture(html):
    data = re.search(r'src="data:image/webp;base64,([^"]+)"', html)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def test_all_frames_are_in_one_picture_side_by_side():
    shown = picture(film(frames(), 4, "grey squares", "A caption.").data)
    assert shown.shape == (6, 40, 3)
    for k in range(4):
        assert abs(shown[:, 10 * k : 10 * k + 10] - 40 * k).max() < 8


def test_a_stored_sheet_is_shown_as_it_is():
    stored = sheet(frames())
    html = film(stored, 4, "x", "y").data
    assert base64.b64encode(stored).decode() in html


def test_a_sheet_is_as_good_as_its_bytes_allow():
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    large, small = sheet(noise), sheet(noise, 9000)
    assert len(small) <= 9000 < len(large)
    with pytest.raises(ValueError, match="expected up to 500"):
        sheet(noise, 500)


def test_it_says_what_it_shows_and_is_still_without_scripts():
    html = film(frames(), 4, 'a "ball" goes round', "The ball `x`.", rate=5).data
    assert 'alt="a &quot;ball&quot; goes round"' in html and 'data-frames="4" data-wait="200"' in html
    assert '<p hidden><button type="button">Play</button>' in html  # no button that does nothing
    assert "aspect-ratio:10/6" in html and "overflow: hidden" in html and "width:400%" in html
    assert "<code>x</code>" in html and "prefers-reduced-motion: reduce" in html
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html)
    assert film(frames(), 4, "a", "b").data == film(frames(), 4, "a", "b").data != film(frames(), 4, "a", "c").data


@pytest.mark.parametrize(
    "made, says",
    [
        (lambda: film(frames(), 4, " ", "x"), "alt is empty"),
        (lambda: film(frames(), 3, "a", "x"), "3 frames"),
        (lambda: film(frames(), 4, "a", "x", rate=0), "rate=0"),
        (lambda: film(frames().astype(float), 4, "a", "x"), "expected uint8"),
        (lambda: sheet(frames(n=40, width=500)), "up to 16383"),
    ],
)
def test_what_cannot_be_shown_is_refused(made, says):
    with pytest.raises(ValueError, match=says):
        made()


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with sync.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-quic"])
        yield chromium
        chromium.close()


def opened(browser, **context):
    tab, wrong = browser.new_page(**context), []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.set_content(f"<body>{film(frames(), 4, 'grey squares', 'Grey.', width=80, rate=20).data}</body>")
    return tab, wrong


def test_it_plays_and_its_button_stops_it_and_says_what_it_does(browser):
    tab, wrong = opened(browser)
    button, says = tab.locator("button"), tab.locator("output")
    assert button.inner_text() == "Pause" and says.get_attribute("aria-live") == "off"
    seen = {
        tab.wait_for_function("k => document.querySelector('output').textContent === `frame ${k} of 4`", arg=k)
        for k in (3, 1)
    }
    assert len(seen) == 2
    button.click()
    at = says.inner_text()
    assert button.inner_text() == "Play" and says.get_attribute("aria-live") == "polite"
    tab.wait_for_timeout(300)
    assert says.inner_text() == at
    box, image = (tab.locator(f".ldm-film {name}").bounding_box() for name in (".ldm-film-box", "img"))
    k = int(at.split()[1]) - 1
    assert image["width"] == pytest.approx(4 * box["width"], abs=0.5)
    assert box["x"] - image["x"] == pytest.approx(k * box["width"], abs=0.5)  # exactly that frame
    button.press("Enter")
    assert button.inner_text() == "Pause" and wrong == []
    tab.close()


def test_it_stands_still_for_those_who_ask_for_it_and_without_scripts(browser):
    tab, wrong = opened(browser, reduced_motion="reduce")
    assert tab.locator("button").inner_text() == "Play"
    tab.wait_for_timeout(300)
    assert tab.locator("output").inner_text() == "frame 1 of 4" and wrong == []
    tab.close()
    tab, _ = opened(browser, java_script_enabled=False)
    assert not tab.locator("button").is_visible() and tab.locator("img").is_visible()
    tab.close()
