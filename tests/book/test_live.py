"""The live figures: what the browser draws is what the package draws, in Chromium and in Firefox; and their extension.

The pages are small ones, since the engine does not care; test_browser opens the book's own.
"""

import base64
import functools
import http.server
import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
import threading
import time

import browsers
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import load

from ldm_course import checkpoints
from ldm_course.data.pictures import to_uint8
from ldm_course.diffusion import editing, samplers
from ldm_course.measure.complexity import unet_flops

needs_browser = pytest.mark.skipif(not browsers.NAMES, reason="neither Chromium nor Firefox on this machine")
spec = importlib.util.spec_from_file_location("live_demo", ROOT / "book" / "ext" / "live_demo.py")
live_demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(live_demo)

PAGES = {
    "both": """{live} emoji-32
:rows: pixel ddim 4; latent ddim 4; pixel ddpm 3; latent dpmpp 5
:controls: kind count guidance seed along
:values: count=2; guidance=2; seed=7
""",
    "words": """{live} text-64
:rows: latent dpmpp 3
:controls: prompt count guidance seed
:values: count=1; guidance=3; prompt=a small red \u2b50 above a M\u00e1uve square
""",
    "long": """{live} emoji-32
:rows: latent ddim 150
:controls: count guidance seed along
:values: count=1; guidance=1; along=1
""",
    "drawn": """{live} emoji-32
:rows: pixel ddim 3; latent ddim 3
:controls: canvas kind count guidance seed
:values: count=1; guidance=2; kind=0
""",
}
CONF = """import sys
sys.path.insert(0, {ext!r})
extensions = ["myst_parser", "live_demo"]
html_theme, exclude_patterns = "basic", ["demo"]
"""


# ---------------------------------------------------------------- what needs no browser


def test_the_embedded_kernels_are_made_of_their_source():
    wasmtime = pytest.importorskip("wasmtime")
    spec = importlib.util.spec_from_file_location("assemble", ROOT / "demo" / "assemble.py")
    assemble = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(assemble)
    made = assemble.kernels()
    simd = wasmtime.Config()
    simd.wasm_relaxed_simd = False
    without = wasmtime.Engine(simd)
    wasmtime.Module.validate(wasmtime.Engine(), made["relaxed"])
    wasmtime.Module.validate(without, made["plain"])
    with pytest.raises(wasmtime.WasmtimeError, match="relaxed SIMD"):
        wasmtime.Module.validate(without, made["relaxed"])
    assert (ROOT / "demo" / "kernel.js").read_text() == assemble.script()


def test_a_row_says_space_method_and_steps():
    assert live_demo.row(" pixel ddim 50 ") == {"space": "pixel", "method": "ddim", "steps": 50}
    assert live_demo.row("latent dpmpp 5 fixed claimed=1.41") == {
        "space": "latent",
        "method": "dpmpp",
        "steps": 5,
        "fixed": True,
        "claimed": 1.41,
    }
    for wrong in (
        "pixel ddim",
        "voxel ddim 5",
        "pixel euler 5",
        "pixel ddim 0",
        "pixel ddim 5 quick",
        "pixel ddim many",
    ):
        with pytest.raises(ValueError, match="no row"):
            live_demo.row(wrong)
    with pytest.raises(ValueError, match="no controls"):
        live_demo.controls("kind colour")
    assert live_demo.values("count=4; prompt=a red star") == {"count": "4", "prompt": "a red star"}


def test_an_autoencoders_two_halves_are_its_file_unchanged():
    path = checkpoints.pretrained_path("emoji-32-autoencoder")
    whole, halves = load(path.read_bytes()), live_demo.weights(path)
    assert sorted(halves) == ["emoji-32-autoencoder-decoder", "emoji-32-autoencoder-encoder"]
    found = {}
    for name, raw in halves.items():
        call = live_demo.as_script(name, raw)
        sent = base64.b64decode(re.fullmatch(rf'ldm_weights\("{name}","(.*)"\);\n', call)[1])
        assert sent == raw
        tensors = load(sent)
        assert not found.keys() & tensors.keys()
        found |= tensors
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) and found[name].dtype == whole[name].dtype for name in whole)


def test_each_choice_of_models_is_one_that_the_engine_knows():
    for name, spaces in json.loads((ROOT / "demo" / "models.json").read_text()).items():
        model, paths = live_demo.facts(spaces, encoder=True)
        for space, stem in spaces.items():
            d = checkpoints.pretrained(stem)
            assert (d.prediction, d.schedule.name, d.space.name) == ("v", "cosine", space), name
            assert d.space.shape == (model["spaces"][space]["channels"], *2 * (model["spaces"][space]["side"],))
        assert all(path.is_file() for path in paths) and model["bytes"] > 1_000_000


def test_the_script_stands_in_one_file_with_the_workers_inside():
    script = live_demo.script(ROOT / "demo")
    worker = json.loads(re.search(r"^const WORKER = (.*);$", script, re.MULTILINE)[1].replace("<\\/", "</"))
    for name in live_demo.WORKER:
        assert (ROOT / "demo" / f"{name}.js").read_text() in worker
    assert not re.search(r"https?:", script) and len(script) < 100_000


# ---------------------------------------------------------------- a page, in a browser


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A small Sphinx project with a page for each figure."""
    folder = tmp_path_factory.mktemp("live")
    source = folder / "source"
    shutil.copytree(ROOT / "demo", source / "demo", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "conf.py").write_text(CONF.format(ext=str(ROOT / "book" / "ext")))
    (source / "index.md").write_text("# Live\n\n```{toctree}\n" + "\n".join(f"book/{n}" for n in PAGES) + "\n```\n")
    (source / "book").mkdir()
    for name, text in PAGES.items():
        (source / "book" / f"{name}.md").write_text(f"# {name}\n\n```{text}\nWithout scripts, this.\n```\n")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", source, folder / "html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module", params=browsers.NAMES)
def browser(request, tmp_path_factory):
    if request.param == "chromium":
        pytest.importorskip("playwright.sync_api")
    found = browsers.opened(request.param, tmp_path_factory.mktemp(request.param))
    yield found
    found.close()


@pytest.fixture(scope="module")
def served(site):
    asked = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


FLOATS = """(() => {
  const r = document.querySelector('.ldm-live').ldm, from = r.order.from;
  const base = f => btoa(Array.from(new Uint8Array(f.slice().buffer), b => String.fromCharCode(b)).join(''));
  const rows = r.rows.map(row => ({ ...row, noise: base(row.noise), x: base(row.x), picture: base(row.picture) }));
  return { ...r, rows, from: from && { picture: base(from.picture), mask: [...from.mask || []] } };
})()"""
SAYS = "document.querySelector('.ldm-live-says').textContent"


def choose(browser, name, value):
    element = f"document.querySelector('.ldm-live [name={name}]')"
    browser.run(f"(e => {{ e.value = '{value}'; e.dispatchEvent(new Event('change')); }})({element})")


def drawn(browser):
    """What a click on Draw leads to."""
    browser.run("document.querySelector('.ldm-live').ldm = {}, 1")
    browser.click(".ldm-live-draw")
    end = "/not work here/.test({0}) ? 'wrong: ' + {0} : (document.querySelector('.ldm-live').ldm.rows ? 'done' : '')"
    assert browsers.until(browser, end.format(SAYS)) == "done"
    result = browser.run(FLOATS)
    for row in result["rows"]:
        for name in ("noise", "x", "picture"):
            row[name] = torch.from_numpy(np.frombuffer(base64.b64decode(row[name]), "<f4").copy())
    return result


def normal_from(seed):
    """The page's random numbers, by another hand: mulberry32, then Box and Muller."""
    a, mask = seed & 0xFFFFFFFF, 0xFFFFFFFF

    def uniform():
        nonlocal a
        a = (a + 0x6D2B79F5) & mask
        t = (a ^ (a >> 15)) * (1 | a) & mask
        t = (t + ((t ^ (t >> 7)) * (61 | t) & mask) & mask) ^ t
        return ((t ^ (t >> 14)) & mask) / 2**32

    def normal(n):
        pairs = [(uniform(), uniform()) for _ in range(n)]
        return torch.tensor([math.sqrt(-2 * math.log(1 - u)) * math.cos(2 * math.pi * v) for u, v in pairs])

    return normal


def same_pictures(denoiser, row, order, method, monkeypatch, **condition):
    """The package's pictures from the same noise: within a grey level, and few off by even that."""
    count = order["count"]
    chance = [normal_from(1009 * order["seed"] + b + 1) for b in range(count)]
    noise = torch.stack([normal(math.prod(denoiser.space.shape)) for normal in chance]).view(
        count, *denoiser.space.shape
    )
    assert (noise.flatten() - row["noise"]).abs().max() < 1e-5
    fresh = lambda x, generator: torch.stack([normal(x[0].numel()) for normal in chance]).view_as(x)  # noqa: E731
    monkeypatch.setattr(samplers, "_normal_like", fresh)
    options = {"guidance_scale": order["guidance_scale"], "steps": row["steps"], "method": method}
    x0 = denoiser.sample(noise, generator=torch.Generator(), **options, **condition)
    assert (x0.flatten() - row["x"]).abs().max() < 1e-4
    ours, theirs = (
        to_uint8(p).flatten().int() for p in (row["picture"], denoiser.space.to_pictures(x0).float() / 127.5 - 1)
    )
    assert (ours - theirs).abs().max() <= 1 and (ours != theirs).float().mean() < 0.01


def rows_of_both(result, monkeypatch):
    """The rows of the page "both", each compared with the package's pictures, and the network that drew it."""
    label = torch.tensor(result["order"]["labels"])
    for row, method in zip(result["rows"], ("ddim", "ddim", "ddpm", "dpmpp"), strict=True):
        denoiser = checkpoints.pretrained(f"emoji-32-{row['space']}")
        same_pictures(denoiser, row, result["order"], method, monkeypatch, label=label)
        yield row, denoiser


@needs_browser
def test_pictures_are_the_packages_by_each_sampler_in_either_space(browser, site, monkeypatch):
    browser.open(f"file://{site}/book/both.html")
    assert "loads the networks" in browser.run(SAYS)
    result = drawn(browser)
    assert result["wasm"] and browser.wrong == []
    label = torch.tensor(result["order"]["labels"])
    assert label.tolist() == [0, 1] and result["order"]["guidance_scale"] == 2
    for row, denoiser in rows_of_both(result, monkeypatch):
        shape = denoiser.space.shape
        counted = unet_flops(denoiser.model.config, shape[-1]).total / 2
        assert result["counted"][row["space"]] == counted
    said = browser.run(SAYS)
    ratio = result["counted"]["pixel"] / result["counted"]["latent"]
    assert f"it should be {ratio:.0f} times less" in said and "4 passes" in said


@needs_browser
def test_a_prompt_is_read_as_the_package_reads_it(browser, site, monkeypatch):
    browser.open(f"file://{site}/book/words.html")
    result = drawn(browser)
    prompt = "a small red \u2b50 above a M\u00e1uve square"
    denoiser = checkpoints.pretrained("text2image-64")
    same_pictures(denoiser, result["rows"][0], result["order"], "dpmpp", monkeypatch, prompt=prompt)
    assert "Not in its vocabulary, so passed over: mauve." in browser.run(SAYS)


@needs_browser
def test_what_is_drawn_by_hand_is_redrawn_and_inpainted_as_in_the_package(browser, site):
    browser.open(f"file://{site}/book/drawn.html")
    first = drawn(browser)
    choose(browser, "mode", "inpaint")  # which takes the brush that marks
    browser.click(".ldm-live-draw")
    assert browsers.until(browser, f"/Nothing is marked/.test({SAYS})")
    strokes = [" ", *["ArrowRight", " "] * 5, *["ArrowDown", " "] * 4]  # by the keyboard alone
    for key in strokes:
        event = f"new KeyboardEvent('keydown', {{ key: '{key}' }})"
        browser.run(f"document.querySelector('.ldm-live-easel').dispatchEvent({event})")
    heard = browser.run("document.querySelector('.ldm-live-heard').textContent")
    assert re.fullmatch(r"row 21, column 22: (yellow|red), marked", heard)
    second = drawn(browser)
    mask = torch.tensor(second["from"]["mask"], dtype=torch.bool).view(1, 1, 32, 32)
    assert mask[0, 0, 16, 16:22].all() and mask[0, 0, 16:21, 21].all() and not mask[0, 0, :14].any()
    for result in (first, second):
        drawing = torch.from_numpy(np.frombuffer(base64.b64decode(result["from"]["picture"]), "<f4").copy())
        pictures, order = to_uint8(drawing).view(1, 3, 32, 32), result["order"]
        assert len(pictures.unique()) > 5
        for row in result["rows"]:
            d = checkpoints.pretrained(f"emoji-32-{row['space']}")
            noise = normal_from(1009 * order["seed"] + 1)(math.prod(d.space.shape)).view(1, *d.space.shape)
            guess = d.predictor(d.condition(1, label=0), order["guidance_scale"])
            if result is first:
                x0 = editing.redraw(
                    guess, d.space.from_pictures(pictures), noise, d.schedule, strength=0.6, steps=row["steps"]
                )
                made = d.space.to_pictures(x0)
            else:
                f = d.space.size // d.space.shape[-1]
                hidden = to_uint8(editing.continued(drawing.view(1, 3, 32, 32), mask, 2 * f))
                known = d.space.from_pictures(hidden), editing.coarse_mask(mask, f)
                x0 = editing.inpaint(guess, *known, noise, d.schedule, steps=row["steps"])
                made = editing.pasted(d.space.to_pictures(x0), pictures, mask, 2 * f)
            assert (x0.flatten() - row["x"]).abs().max() < 1e-4
            assert (to_uint8(row["picture"]).int() - made.flatten().int()).abs().max() <= 1


@needs_browser
def test_nothing_is_asked_for_before_the_click_and_nothing_twice(browser, served):
    address, asked = served
    asked.clear()
    browser.open(f"{address}/book/both.html")
    assert "noise" in browser.run("document.querySelector('.ldm-live canvas').getAttribute('aria-label')")
    loaded = lambda: [path for path in asked if "emoji-32" in path]  # noqa: E731
    assert loaded() == []
    first = drawn(browser)
    assert len(loaded()) == 3 and not any("encoder.js" in path and "decoder" not in path for path in loaded())
    asked.clear()
    browser.open(f"{address}/book/both.html")
    second = drawn(browser)
    assert loaded() == []
    for one, other in zip(first["rows"], second["rows"]):
        assert torch.equal(one["picture"], other["picture"])


@needs_browser
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_largest_network_and_eight_pictures_take_less_than_200_megabytes(browser, site):
    browser.open(f"file://{site}/book/words.html")
    choose(browser, "count", 8)
    time.sleep(5)  # a browser that has just started still grows
    before = browsers.private_memory(browser)
    drawn(browser)
    assert before > 20e6  # the browser was found
    assert browsers.private_memory(browser) - before < 200e6


@needs_browser
def test_one_can_look_back_and_sees_what_was_decoded_on_the_way(browser, site):
    browser.open(f"file://{site}/book/long.html")
    drawn(browser)
    seen = []
    for share in (0, 0.5, 1):
        slider = "document.querySelector('.ldm-live-back input')"
        browser.run(f"(e => {{ e.value = {share}; e.dispatchEvent(new Event('input')); }})({slider})")
        at = browser.run("document.querySelector('.ldm-live-at').textContent")
        pictures = "[...document.querySelectorAll('.ldm-live canvas')].map(c => c.toDataURL())"
        seen.append((int(re.fullmatch(r"step (\d+) of 150", at)[1]), *browser.run(pictures)))
        assert browser.run(f"{slider}.getAttribute('aria-valuetext')").endswith(at)
    steps, states, decoded = zip(*seen)
    assert steps[0] == 0 and 70 <= steps[1] <= 80 and steps[2] == 150
    assert len(set(states)) == len(set(decoded)) == 3


@needs_browser
def test_stop_stops_and_draw_starts_again(browser, site):
    browser.open(f"file://{site}/book/both.html")
    drawn(browser)
    choose(browser, "count", 8)
    browser.run("document.querySelector('.ldm-live').ldm = {}, 1")
    browser.click(".ldm-live-draw")
    assert browsers.until(browser, "/Stop/.test(document.querySelector('.ldm-live-draw').textContent)")
    browsers.until(browser, "document.querySelector('.ldm-live progress').value > 0")
    browser.click(".ldm-live-draw")
    assert browsers.until(browser, f"/Stopped/.test({SAYS})")
    assert browser.run("document.querySelector('.ldm-live').ldm.rows === undefined")
    drawn(browser)


@needs_browser
def test_each_control_and_picture_has_a_name(browser, site):
    browser.open(f"file://{site}/book/both.html")
    for control in ("input", "select"):
        named = f"[...document.querySelectorAll('.ldm-live {control}')].map(e => e.closest('label').textContent.trim())"
        assert all(browser.run(named))
    labels = browser.run("[...document.querySelectorAll('.ldm-live canvas')].map(e => e.getAttribute('aria-label'))")
    assert (
        len(labels) == 6
        and len(set(labels)) == 6
        and "latent, DDIM, 4 steps, decoded: 2 pictures, noise" in labels[2]
        and all("2 pictures" in label for label in labels)
    )
    assert browser.run(f"({SAYS}, document.querySelector('.ldm-live-says').getAttribute('role'))") == "status"


needs_chromium = pytest.mark.skipif("chromium" not in browsers.NAMES, reason="no Chromium on this machine")
# what the worker, which is started from a Blob, runs before its own script
BEFORE = """const Whole = Blob;
window.Blob = class extends Whole {
  constructor(parts, options) { super(["%s", ...parts], options); }
};"""
NO_WASM = BEFORE % "delete self.WebAssembly;"
# without relaxed SIMD: the first of the two kernels is refused, as by browsers that have not got it
NO_FUSED = BEFORE % "let n = 0; const valid = WebAssembly.validate; WebAssembly.validate = b => n++ > 0 && valid(b);"


@needs_chromium
def test_without_relaxed_simd_the_pictures_are_the_same_and_still_by_webassembly(site, tmp_path, monkeypatch):
    pytest.importorskip("playwright.sync_api")
    browser = browsers.opened("chromium", tmp_path)
    browser.tab.add_init_script(NO_FUSED)
    browser.open(f"file://{site}/book/both.html")
    result = drawn(browser)
    assert result["wasm"] and browser.wrong == [] and "plain JavaScript" not in browser.run(SAYS)
    assert len(list(rows_of_both(result, monkeypatch))) == 4
    browser.close()


@needs_chromium
def test_without_what_it_needs_a_sentence_says_so(site):
    pytest.importorskip("playwright.sync_api")
    with browsers.playwright() as p:
        for context, script, flags, words in (
            ({"java_script_enabled": False}, "", [], "Without scripts, this."),
            ({}, "delete window.Worker", [], "Without scripts, this."),
            ({}, "window.Worker = function () { throw new Error('no worker'); }", [], "not work here: no worker"),
            ({}, NO_WASM, [], "plain JavaScript"),
            ({}, "", ["--js-flags=--jitless"], "not work here: this browser does not compile scripts"),
        ):
            browser = p.chromium.launch(executable_path=browsers.CHROMIUM, args=browsers.QUIET + flags)
            tab = browser.new_page(**context)
            tab.set_default_timeout(300_000)
            tab.add_init_script(script)
            tab.goto(f"file://{site}/book/both.html")
            if "Without" not in words:
                tab.select_option("[name=count]", "1")
                tab.click(".ldm-live-draw")
                tab.wait_for_function(f"/times less|not work here/.test({SAYS})")
            assert words in tab.inner_text(".ldm-live")
            browser.close()


@pytest.fixture
def tab(site):
    """A function that opens one of the small pages in Chromium."""
    pytest.importorskip("playwright.sync_api")
    with browsers.playwright() as p:
        chromium = p.chromium.launch(executable_path=browsers.CHROMIUM, args=browsers.QUIET)

        def opened(name, script="", **context):
            tab = chromium.new_page(**context)
            tab.set_default_timeout(300_000)
            tab.add_init_script(script)
            tab.goto(f"file://{site}/book/{name}.html")
            return tab

        yield opened
        chromium.close()


FINISHED = "!!(document.querySelector('.ldm-live').ldm || {}).rows"


@needs_chromium
def test_a_screen_reader_hears_what_there_is_and_what_has_happened(tab):
    page = tab("both")
    before = page.locator(".ldm-live").aria_snapshot()
    for words in (
        '- form "What to draw":',
        '- combobox "kind":',
        '- combobox "pictures":',
        '- spinbutton "seed": "7"',
        '- checkbox "decode every step"',
        '- button "Draw"',
        '- progressbar "how far the drawing has come"',
        '- group "latent, DDIM, 4 steps":',
        'img "pixel, DDPM, 3 steps: 2 pictures, noise, before the first step"',
        "- status: The noise is drawn already.",
        '- table "What it took":',
        "paragraph: latent space 8 \u00d7 8 \u00d7 4, DDIM step 0 of 4",
        '- columnheader "a step"',
        '- rowheader "latent, DPM-Solver++"',
    ):
        assert words in before, before
    page.click(".ldm-live-draw")
    page.wait_for_function(FINISHED)
    after = page.locator(".ldm-live").aria_snapshot()
    assert 'img "latent, DDIM, 4 steps, decoded: 2 pictures, after step 4 of 4"' in after
    assert "- status: A step took" in after and '- slider "look back"' in after
    easel = tab("drawn").locator(".ldm-live").aria_snapshot()
    for words in (
        'application "A picture of 32 by 32 pixels to draw on.',
        '- combobox "paint":',
        '- slider "up to',
        '- button "Clear"',
        '- img "the drawing, encoded and decoded"',
    ):
        assert words in easel, easel


@needs_chromium
def test_the_keyboard_alone_draws_stops_and_looks_back(tab):
    page, reached = tab("both"), []
    focused = "(e => e.closest('.ldm-live') ? e.name || e.textContent : '')(document.activeElement)"
    for _ in range(40):
        page.keyboard.press("Tab")
        if name := page.evaluate(focused):
            reached.append(name)
            shown = "getComputedStyle(document.activeElement).outlineStyle"
            assert page.evaluate(shown) != "none", f"{name} does not show that it is reached"
        if name == "Draw":
            break
    assert reached == ["kind", "count", "guidance", "seed", "along", "Draw"]
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.ldm-live progress').value > 0")
    assert page.evaluate(focused) == "Stop"
    page.keyboard.press("Enter")
    page.wait_for_function(f"/Stopped/.test({SAYS})")
    page.keyboard.press("Space")
    page.wait_for_function(FINISHED)
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert page.inner_text(".ldm-live-at >> nth=0") == "step 0 of 4"


@needs_chromium
def test_those_who_want_no_motion_see_the_noise_and_then_the_pictures(tab):
    count = """window.paints = 0;
    const put = CanvasRenderingContext2D.prototype.putImageData;
    CanvasRenderingContext2D.prototype.putImageData = function (...all) {
      window.paints += 1;
      return put.apply(this, all);
    };"""
    paints = {}
    for motion in ("no-preference", "reduce"):
        page = tab("long", count, reduced_motion=motion)
        before = page.evaluate("window.paints")
        page.click(".ldm-live-draw")
        page.wait_for_function(FINISHED)
        paints[motion] = page.evaluate("window.paints") - before
    assert paints["reduce"] == 2 and paints["no-preference"] > 6


@needs_chromium
def test_a_picture_of_the_readers_is_cut_to_its_middle_and_sent_nowhere(tab, tmp_path):
    page, asked = tab("drawn"), []
    page.on("request", lambda request: asked.append(request.url))
    columns = np.arange(96).reshape(1, 96, 1) // 32 == np.arange(
        3
    )  # red, green and blue thirds, so the middle is green
    Image.fromarray(np.broadcast_to(255 * columns, (32, 96, 3)).astype(np.uint8)).save(tmp_path / "wide.png")
    page.set_input_files(".ldm-live [type=file]", tmp_path / "wide.png")
    colours = """() => {
      const { data } = document.querySelector('.ldm-live-easel').getContext('2d').getImageData(0, 0, 32, 32);
      return [...new Set(Array.from({ length: 1024 }, (_, i) => data.slice(4 * i, 4 * i + 3).join()))]; }"""
    page.wait_for_function(f"({colours})().join(' ') === '0,255,0'")
    assert not [url for url in asked if not url.startswith(("blob:", "data:"))]


@needs_chromium
def test_missing_weights_are_told(site, tmp_path):
    copy = shutil.copytree(site, tmp_path / "html")
    (copy / "_static" / "live" / "emoji-32-latent.js").unlink()
    browser = browsers.opened("chromium", tmp_path)
    browser.open(f"file://{copy}/book/both.html")
    browser.click(".ldm-live-draw")
    said = browsers.until(browser, f"/not work here/.test({SAYS}) && {SAYS}")
    assert "emoji-32-latent.js" in said
    assert browser.run("document.querySelector('.ldm-live-draw').textContent") == "Draw"
    browser.close()
