"""The book: it builds without a warning, loads nothing from other hosts, and every link in it leads somewhere.

One copy of the book is built twice: without a run of this machine, and with one.
"""

import ast
import importlib.util
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
import yaml
from conftest import ROOT
from docutils import nodes
from docutils.utils import new_document
from PIL import Image

import ldm_course
from ldm_course import checkpoints
from ldm_course.config import UNetConfig
from ldm_course.page.plotting import grid_image, save_png

MODULES = ["ldm_course"] + sorted(
    module.name
    for module in pkgutil.walk_packages(ldm_course.__path__, "ldm_course.")
    if not module.name.endswith("__main__")
)
REPORT = """# Pixel against latent

Recorded on 2025-03-01, on a laptop (2 threads), in 1 min 01 s, from commit 1a2b3c4.

![Samples from both](grid.png)

## Cost

| | pixel | latent |
|---|--:|--:|
| seconds per step | 0.25 | 0.125 |

```
# not a heading
![not a picture](grid.png)
```
"""


class Page(HTMLParser):
    """What a page loads, where it links to, and the names it has for others to link to."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.ids, self.pictures, self.text, self.headings = [], [], set(), [], "", []
        self.anchors, self._within = [], None  # (what is written, the link's attributes)
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        has = dict(attributes)
        self.ids |= {has.get("id"), has.get("name")}
        if tag == "article":
            self.headings.clear()  # before it stand the theme's own, hidden until print
        elif re.fullmatch(r"h[1-6]", tag):
            self.headings.append(tag)
        if tag == "a":
            self.links.append(has.get("href"))
            self._within = ("", has)
        elif tag == "link":
            if not {"next", "prev", "search", "index", "author", "canonical"} & set((has.get("rel") or "").split()):
                self.loads.append(has.get("href"))
        else:
            self.loads += [has.get("src"), has.get("data"), has.get("poster")]
            self.loads += [part.split()[0] for part in (has.get("srcset") or "").split(",") if part.strip()]
        if tag == "img":
            self.pictures.append(has)

    def handle_data(self, data):
        self.text += data
        if self._within:
            self._within = (self._within[0] + data, self._within[1])

    def handle_endtag(self, tag):
        if tag == "a" and self._within:
            self.anchors.append(self._within)
            self._within = None


def build(folder):
    command = "from jupyter_book.cli.main import main; main()"
    words = ["build", str(folder), "--all", "-W", "-n", "--keep-going", "--quiet"]
    done = subprocess.run([sys.executable, "-c", command, *words], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "_build" / "html"


def pages(built):
    return {path.relative_to(built).as_posix(): Page(path) for path in built.rglob("*.html")}


def copied(folder):
    """The book's sources in that folder, which is returned: a build leaves nothing in the checkout, nor takes from it
    what is not the book's."""
    for name in ("book", "assets", "chapters", "demo"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return copied(tmp_path_factory.mktemp("book") / "source")


@pytest.fixture(scope="module")
def built(source):
    return build(source)


@pytest.fixture(scope="module")
def book(built):
    return pages(built)


def foreign(address):
    return bool(re.match(r"(https?:)?//", address or ""))


def test_pages_load_nothing_from_other_hosts(book, built):
    assert "book/intro.html" in book
    assert {
        name: [x for x in page.loads if foreign(x)] for name, page in book.items() if any(map(foreign, page.loads))
    } == {}
    for sheet in built.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_that_check_would_notice(tmp_path):
    (tmp_path / "page.html").write_text(
        '<link rel="canonical" href="https://a.example/"><link rel="stylesheet" href="//b.example/x.css">'
        '<script src="https://c.example/x.js"></script><img srcset="y.png 1x, http://d.example/y.png 2x"><a href="https://e.example">'
    )
    page = Page(tmp_path / "page.html")
    assert [x for x in page.loads if foreign(x)] == [
        "//b.example/x.css",
        "https://c.example/x.js",
        "http://d.example/y.png",
    ]


def test_inline_scripts_fetch_nothing(built):
    for path in built.rglob("*.html"):
        for script in re.findall(r"<script[^>]*>(.*?)</script>", path.read_text(encoding="utf-8"), re.DOTALL):
            assert not re.search(r"(import|fetch|importScripts)\s*\(\s*['\"`]\s*(https?:)?//", script), path


def test_mathjax_is_the_books_own(book):
    notation = book["book/notation.html"]
    assert any((address or "").split("?")[0].endswith("vendor/mathjax/tex-mml-chtml.js") for address in notation.loads)


def test_everything_a_page_points_to_is_there(book, built):
    missing = []
    for name, page in book.items():
        if name.startswith(("_static/", "genindex")):
            continue
        for address in [*page.loads, *page.links]:
            if not address or foreign(address) or re.match(r"(data|mailto|javascript|blob):", address):
                continue
            parts = urlsplit(address)
            target = (built / name).parent / unquote(parts.path) if parts.path else built / name
            target = Path(os.path.normpath(target))
            if not target.exists():
                missing.append((name, address))
            elif parts.fragment and target.suffix == ".html":
                other = book[target.relative_to(os.path.normpath(built)).as_posix()]
                if unquote(parts.fragment) not in other.ids:
                    missing.append((name, address))
    assert missing == []


def test_pictures_have_words_for_those_who_cannot_see_them(book):
    for name, page in book.items():
        assert all(picture.get("alt") for picture in page.pictures), name


def test_no_page_weighs_more_than_three_megabytes(book, built):
    for name, page in book.items():
        if name.startswith(("book/", "chapters/")):
            own = {unquote(urlsplit(x).path) for x in page.loads if x and not foreign(x) and not x.startswith("data:")}
            pictures = {x for x in own if re.search(r"\.(png|jpe?g|webp|svg)$", x)}
            files = [built / name, *((built / name).parent / x for x in pictures)]
            assert sum(file.stat().st_size for file in files) < 3e6, name


def test_each_page_has_one_title(book):
    for name, page in book.items():
        if name.startswith(("book/", "chapters/")):
            assert page.headings.count("h1") == 1, name


def toc_files():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    return [toc["root"], *(page["file"] for c in chapters for page in (c, *c.get("sections", ())))]


def test_every_chapter_is_in_the_contents_and_on_the_map():
    # by their numbers; a chapter's front page, which has none of a section, before its sections
    chapters = sorted(
        (path.stem for path in (ROOT / "chapters").glob("*.ipynb")), key=lambda s: (s[:2], s[3].isdigit(), s)
    )
    assert [file for file in toc_files() if file.startswith("chapters/")] == [f"chapters/{name}" for name in chapters]
    for page, folder in (("book/intro.md", "../chapters"), ("README.md", "chapters")):
        rows = re.findall(r"^\| (\d+|0 b) \| (.*?) \|", (ROOT / page).read_text().replace("&nbsp;", " "), re.MULTILINE)
        assert [number for number, _ in rows] == ["0", "0 b", *map(str, range(1, 11))]
        linked = [re.findall(rf"\({folder}/(\w+)\.ipynb\)", row) for _, row in rows]
        assert [name for names in linked for name in names] == chapters, page
        for (number, row), names in zip(rows, linked):
            assert all(name.startswith(number.removesuffix(" b").zfill(2)) for name in names), (page, number)
            assert ("coming" in row) == (not names), (page, number)


def test_the_bibliography_has_each_source_once():
    keys = re.findall(r"^@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text(), re.MULTILINE)
    assert len(keys) == len(set(keys))
    bib = (ROOT / "book" / "references.bib").read_text()
    arxiv = re.findall(r"eprint\s*= \{(\d{4}\.\d{5}|\d{4}\.\d{4})\}", bib)
    assert len(arxiv) == bib.count("eprint ") and len(arxiv) == len(set(arxiv))


def test_your_machine_says_how_to_get_a_run(book):
    text = book["book/your_machine.html"].text
    assert text.count("No run yet") == 2 and "make book" in text and "ldm-course gallery" in text


def test_your_machine_shows_the_run(source, built):
    folder = source / "runs" / "compare"
    folder.mkdir(parents=True)
    try:
        (folder / "report.md").write_text(REPORT)
        save_png(folder / "grid.png", grid_image(torch.zeros(4, 3, 8, 8, dtype=torch.uint8)))
        drawn = source / "runs" / "gallery"
        drawn.mkdir()
        (drawn / "gallery.md").write_text("**dots**\n\n![Dots, not chosen](dots.png)\n")
        save_png(drawn / "dots.png", grid_image(torch.zeros(4, 3, 8, 8, dtype=torch.uint8)))
        page = Page(build(source) / "book" / "your_machine.html")
    finally:
        shutil.rmtree(source / "runs")
    assert "No run yet" not in page.text
    assert "Run on this machine on 2025-03-01, on a laptop" in page.text and "Recorded on" not in page.text
    assert "seconds per step" in page.text and "0.125" in page.text
    assert "# not a heading" in page.text and "![not a picture](grid.png)" in page.text
    assert page.headings.count("h1") == 1
    for alt in ("Samples from both", "Dots, not chosen"):
        (shown,) = [picture for picture in page.pictures if picture["alt"] == alt]
        assert (built / "book" / shown["src"]).is_file()


# ------------------------------------------------------------------------- links that the book puts by itself


def anchors(book, page, kind):
    """The links of one kind on a page: what is written -> where it leads."""
    found = {}
    for words, has in book[page].anchors:
        if kind in (has.get("class") or "").split():
            assert words not in found, f"{page} links {words!r} twice"
            found[words] = has["href"]
    return found


def test_the_first_mention_of_a_name_leads_to_its_entry(book):
    links = anchors(book, "chapters/00_diffusion.html", "ldm-api")
    schedules, samplers = (f"../book/api_diffusion.html#ldm_course.diffusion.{m}." for m in ("schedules", "samplers"))
    assert links["add_noise"] == f"{schedules}add_noise"
    assert links["sample"] == f"{samplers}sample"  # not the command of that name
    assert links['make_schedule("cosine", shift=2)'] == f"{schedules}make_schedule"
    assert book["chapters/00_diffusion.html"].text.count("add_noise") > 1  # and only the first is a link
    assert "compare" not in anchors(book, "book/how_to_use.html", "ldm-api")  # a word that the page does not import


def test_a_docstring_may_call_a_module_by_its_last_name(book):
    order = anchors(book, "book/api_core.html", "ldm-api")
    assert order["samplers"] == "api_diffusion.html#module-ldm_course.diffusion.samplers"
    assert order["data"] == "api_data.html#module-ldm_course.data"  # not the command
    assert order["Denoiser.generate"] == "#ldm_course.denoiser.Denoiser.generate"
    measure = anchors(book, "book/api_measurement.html", "ldm-api")
    assert measure["timing"] == "#module-ldm_course.measure.timing"
    assert "off_by" not in measure  # a field of `structures.Left`, and a function of `cost_model`


def named(full):
    """What `full` names: in "ldm_course.denoiser.Denoiser.generate" a module, a class in it, and its method."""
    module = full
    while module not in MODULES:
        module = module.rpartition(".")[0]
    found = importlib.import_module(module)
    for part in full.removeprefix(module).split(".")[1:]:
        found = getattr(found, part)
    return found


def imports(notebook):
    """What a chapter's code imports from the package: the name that it has there -> the thing itself."""
    found = {}
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            code = "".join(line for line in cell["source"] if not line.lstrip().startswith(("%", "!")))
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ldm_course":
                    exec(ast.unparse(node), found)
    return found


def test_a_chapters_links_lead_to_what_its_code_uses(book):
    checked = 0
    for chapter in (ROOT / "chapters").glob("*.ipynb"):
        known = imports(chapter)
        for words, address in anchors(book, f"chapters/{chapter.stem}.html", "ldm-api").items():
            first, *rest = re.match(r"[\w.]+", words)[0].split(".")
            full = address.split("#")[1].removeprefix("module-")
            assert full.split(".")[-1] == (rest or [first])[-1], (chapter.stem, words, address)
            if first in known:
                meant = known[first]
                for part in rest:
                    meant = getattr(meant, part)
                assert named(full) is meant, (chapter.stem, words, address)
                checked += 1
    assert checked > 10


def test_the_first_use_of_a_word_leads_to_the_glossary(book):
    for page in book:
        links = anchors(book, page, "ldm-term")
        assert bool(links) == page.startswith("chapters/"), page
        assert all(address.startswith("../book/glossary.html#term-") for address in links.values())
        leads = list(links.values())
        assert len(leads) == len(set(leads)), page
    assert anchors(book, "chapters/02_results.html", "ldm-term")["epochs"].endswith("#term-Epoch")
    assert anchors(book, "chapters/02_results.html", "ldm-term")["latent diffusion"].endswith("#term-Latent-diffusion")


def page_of(module):
    """The page with a module's entry: one for each folder, and one for what lies in none."""
    folder = (module.split(".") + [""])[1]
    inside = any(name.startswith(f"ldm_course.{folder}.") for name in MODULES)
    return f"api_{({'measure': 'measurement'}.get(folder, folder)) if inside else 'core'}.html"


def test_every_module_has_its_entry_on_its_folders_page_and_a_line_in_the_overview(book):
    assert "ldm_course.lab.stages.base" in MODULES and len(MODULES) > 70
    overview = set(book["book/api.html"].links)
    for module in MODULES:
        holders = [name for name, page in book.items() if f"module-{module}" in page.ids]
        assert holders == [f"book/{page_of(module)}"], module
        entry = f"{page_of(module)}#module-{module}"
        is_folder = hasattr(named(module), "__path__") and module != "ldm_course"
        assert (page_of(module) if is_folder else entry) in overview, module
        assert is_folder == ("Begin with" in named(module).__doc__), module


def test_the_api_pages_have_what_the_modules_have(book):
    ids = set().union(*(page.ids for name, page in book.items() if name.startswith("book/api")))
    assert {"ldm_course.networks.unet.UNet", "ldm_course.lab.records.stamp", "ldm_course.cli.compare.compare"} <= ids
    assert {"ldm_course.denoiser.Denoiser.generate", "ldm_course.networks.autoencoder.Autoencoder.reconstruct"} <= ids
    public = [f"ldm_course.{module}.{name}" for module, names in ldm_course.PUBLIC.items() for name in names]
    assert set(public) <= {address.split("#")[-1] for address in book["book/api_core.html"].links if address}
    text = " ".join(page.text for name, page in book.items() if name.startswith("book/api"))
    assert "`" not in text and "\\" not in text  # docstrings came out as text, with no mark left over


@pytest.fixture(scope="module")
def extensions():
    sys.path.insert(0, str(ROOT / "book" / "ext"))
    try:
        yield __import__("api_links"), __import__("glossary_links")
    finally:
        sys.path.pop(0)


def test_docstrings_become_restructured_text(extensions):
    plain = extensions[0].plain
    assert plain("`a` and `b`, |x - y|, *much*, 2 * 3 * 4") == "``a`` and ``b``, \\|x - y\\|, *much*, 2 \\* 3 \\* 4"
    assert plain("two `x`s, one_ name_here") == "two ``x``\\ s, one\\_ name_here"
    assert plain("Either\n- this,\n  or\n- that.\n") == "Either\n\n- this,\n  or\n- that.\n"


def page_with(code):
    document = new_document("page")
    document += nodes.literal_block(code, code)
    return document


def test_what_a_page_imports_is_found_however_it_is_written(extensions):
    found = extensions[0].imported(
        page_with(
            """import torch
from ldm_course.diffusion.samplers import sample, timesteps as levels
from ldm_course import make_schedule, pretrained, spaces
from ldm_course.measure import (
    distances,  # as many (as needed)
    timing,
)
if True:
    from ldm_course import UNet, \\
        Denoiser
from ldm_course.files import home; home()
from ldm_course is prose
from elsewhere import add_noise
"""
        )
    )
    assert found == {
        "sample": "ldm_course.diffusion.samplers.sample",
        "levels": "ldm_course.diffusion.samplers.timesteps",
        "make_schedule": "ldm_course.diffusion.schedules.make_schedule",
        "pretrained": "ldm_course.checkpoints.pretrained",
        "spaces": "ldm_course.spaces",
        "distances": "ldm_course.measure.distances",
        "timing": "ldm_course.measure.timing",
        "UNet": "ldm_course.networks.unet.UNet",
        "Denoiser": "ldm_course.denoiser.Denoiser",
    }


class Entry:
    aliased = False

    def __init__(self, objtype):
        self.objtype = objtype


def test_a_mention_means_what_is_nearest_and_nothing_where_that_is_not_clear(extensions):
    kinds = {
        "ldm_course.diffusion": "module",
        "ldm_course.diffusion.samplers": "module",
        "ldm_course.diffusion.samplers.sample": "function",
        "ldm_course.cli": "module",
        "ldm_course.cli.sample": "module",
        "ldm_course.cli.sample.sample": "function",
        "ldm_course.lab.compare.break_even": "function",
        "ldm_course.measure.cost_model.break_even": "function",
        "ldm_course.denoiser.Denoiser": "class",
        "ldm_course.denoiser.Denoiser.sample": "method",
    }
    objects = {full: Entry(kind) for full, kind in kinds.items()}
    links = extensions[0]
    names = links.known_names(objects)

    def meant(word, module=None, own=False, **page):
        found = links.meant(word, (module, own), page, names, objects)
        return found and found.removeprefix("ldm_course.")

    nowhere = {word: meant(word) for word in ("sample", "break_even", "samplers", "compare.break_even")}
    assert nowhere == {"sample": None, "break_even": None, "samplers": None} | {
        "compare.break_even": "lab.compare.break_even"
    }
    assert meant("samplers.sample") == meant("ldm_course.sample") == "diffusion.samplers.sample"
    assert (
        meant("diffusion.samplers") == "diffusion.samplers" and meant("Denoiser.sample") == "denoiser.Denoiser.sample"
    )
    assert meant("sample", sample="ldm_course.diffusion.samplers.sample") == "diffusion.samplers.sample"
    assert meant("s.sample", s="ldm_course.diffusion.samplers") == "diffusion.samplers.sample"
    assert meant("samplers", samplers="ldm_course.diffusion.samplers") is None  # the word alone may mean anything
    assert meant("sample", "ldm_course.cli.sample") == "cli.sample.sample"
    assert meant("samplers", "ldm_course.cli.sample") is None
    assert meant("diffusion", "ldm_course.cli.sample", own=True) == "diffusion"
    assert meant("samplers", "ldm_course", own=True) == "diffusion.samplers"


def texts():
    """Where the package's names are mentioned: its docstrings, the pages, the chapters' text."""
    for path in sorted((ROOT / "ldm_course").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                yield path.relative_to(ROOT), ast.get_docstring(node) or ""
    for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", *(ROOT / "book").glob("*.md")):
        yield name, (ROOT / name).read_text()
    for path in (ROOT / "chapters").glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "markdown":
                yield path.stem, "".join(cell["source"])


def test_no_text_names_what_the_package_does_not_have():
    """Of mentions such as `samplers.sample` and `Denoiser.generate`: one module, or class, of that name has it."""
    homes = {}
    for module in map(named, MODULES):
        homes.setdefault(module.__name__.split(".")[-1], []).append(module)
        for thing in vars(module).values():
            if isinstance(thing, type) and thing.__module__ == module.__name__:
                homes.setdefault(thing.__name__, []).append(thing)
    del homes["config"]  # in docstrings an argument's name
    stale, checked = [], 0
    for where, text in texts():
        for first, rest in re.findall(r"`(\w+)\.([A-Za-z_]\w*)[^`\n]*`", text):
            if first in homes and rest not in ("md", "py", "json", "png"):
                checked += 1
                has = [h for h in homes[first] if hasattr(h, rest) or rest in getattr(h, "__dataclass_fields__", ())]
                if not has and not any(module.endswith(f".{first}.{rest}") for module in MODULES):
                    stale.append((where, f"{first}.{rest}"))
    assert stale == [] and checked > 30


def test_words_of_the_glossary_are_found_whole(extensions):
    find = extensions[1].pattern(["Latent", "Latent diffusion", "FLOP", "FLOP/s", "Memory", "U-Net"])
    found = [
        m[0] for m in find.finditer("latent diffusion, Latents, latent-wise, flat, 3 FLOPs, FLOP/s, U-Nets, memories")
    ]
    assert found == ["latent diffusion", "Latents", "FLOPs", "FLOP/s", "U-Nets", "memories"]


# ------------------------------------------------------------------------------------------- drawn by scripts


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_diagrams_are_those_of_the_configurations():
    diagrams = script("make_diagrams")
    for name, draw in diagrams.DIAGRAMS.items():
        stored = (ROOT / "assets" / f"{name}.svg").read_text(encoding="utf-8")
        assert draw().svg() == stored, f"assets/{name}.svg is stale: python book/make_diagrams.py"
    wider = replace(UNetConfig(), block_out_channels=(64, 128), attention=(False, True), layers_per_block=2)
    svg = diagrams.unet(wider).svg()
    assert "64 channels" in svg and "3 skips" in svg and "2 × (residual, attention)" in svg and "96" not in svg


def test_the_landing_pages_film_is_what_its_script_makes():
    film, page = script("make_landing"), (ROOT / "book" / "intro.md").read_text()
    frames = 2 * film.STEPS + 1
    assert f'data-steps="{film.STEPS}" data-levels="1000"' in page and f'max="{frames - 1}"' in page
    assert f"then {film.STEPS} DDIM steps" in page and f"the seed is {film.SEED}" in page
    for name, side in (("pixel", 64), ("decoded", 64), ("latent", 36)):
        with Image.open(ROOT / "assets" / f"landing_{name}.webp") as sheet:
            assert sheet.size == (frames * side, side)
    for name in ("pixel", "latent"):
        channels, height, width = checkpoints.pretrained(f"emoji-32-{name}").space.shape
        assert f"{height} × {width} × {channels}" in page
    assert sum(path.stat().st_size for path in (ROOT / "assets").glob("landing*")) < 600_000


def test_the_films_path_ends_in_the_noise_that_the_way_back_starts_from():
    film = script("make_landing")
    pixel = checkpoints.pretrained("emoji-32-pixel")
    pixel = replace(pixel, model=Still(pixel.model.config))
    clean, eps = torch.rand(4, 3, 4, 4), torch.randn(4, 3, 4, 4)
    states = film.path(pixel, clean, eps)
    assert len(states) == 2 * film.STEPS + 1 and states[0] is clean
    assert (states[film.STEPS] - eps).abs().max() < 1e-3  # t = T of the cosine schedule has no picture left
    alpha_bar = pixel.schedule.alpha_bar[1000 // film.STEPS - 1].item()  # one step from clean, in the papers' count
    assert (states[1] - (alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * eps)).abs().max() < 1e-6
    assert states[-1].abs().max() <= 1  # clipped, as pixels are


class Still(torch.nn.Module):
    """A network that always predicts 0."""

    def __init__(self, config):
        super().__init__()
        self.config, self.weight = config, torch.nn.Parameter(torch.zeros(()))  # by which its device is known

    def forward(self, x, t, label=None):
        return torch.zeros_like(x)


@pytest.mark.parametrize(
    "path", sorted([*(ROOT / "chapters").glob("*.ipynb"), *(ROOT / "book").glob("*.ipynb")]), ids=str
)
def test_what_notebooks_show_holds_no_warning(path):
    """A warning says where a file lies on the machine that ran it."""
    cells = json.loads(path.read_text())["cells"]
    shown = [output for cell in cells for output in cell.get("outputs", ())]
    assert shown and not [output["text"] for output in shown if output.get("name") == "stderr"]
