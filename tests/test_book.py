"""The book: it builds without a warning, loads nothing from other hosts, and every link in it leads somewhere.

One copy of the book is built twice: without a run of this machine, and with one.
"""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
import yaml

from ldm_course.plotting import grid_image, save_png

ROOT = Path(__file__).parent.parent
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


def build(folder):
    command = "from jupyter_book.cli.main import main; main()"
    words = ["build", str(folder), "--all", "-W", "-n", "--keep-going", "--quiet"]
    done = subprocess.run([sys.executable, "-c", command, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "_build" / "html"


def pages(built):
    return {path.relative_to(built).as_posix(): Page(path) for path in built.rglob("*.html")}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book") / "source"
    for name in ("book", "assets", "chapters"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, folder)
    return folder


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


def test_each_page_has_one_title(book):
    for name, page in book.items():
        if name.startswith(("book/", "chapters/")):
            assert page.headings.count("h1") == 1, name


def toc_files():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def test_every_chapter_is_in_the_contents_and_on_the_map():
    chapters = sorted(path.stem for path in (ROOT / "chapters").glob("*.ipynb"))
    assert [file for file in toc_files() if file.startswith("chapters/")] == [f"chapters/{name}" for name in chapters]
    for page, folder in (("book/intro.md", "../chapters"), ("README.md", "chapters")):
        rows = dict(re.findall(r"^\| (\d+) \| (.*?) \|", (ROOT / page).read_text(), re.MULTILINE))
        assert list(rows) == [str(i) for i in range(11)]
        for number, row in rows.items():
            written = [name for name in chapters if int(name[:2]) == int(number)]
            assert [name for name in chapters if f"({folder}/{name}.ipynb)" in row] == written, (page, number)
            assert ("coming" in row) == (not written), (page, number)


def test_the_bibliography_has_each_source_once():
    keys = re.findall(r"^@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text(), re.MULTILINE)
    assert len(keys) == len(set(keys))
    bib = (ROOT / "book" / "references.bib").read_text()
    arxiv = re.findall(r"eprint\s*= \{(\d{4}\.\d{5}|\d{4}\.\d{4})\}", bib)
    assert len(arxiv) == bib.count("eprint ") and len(arxiv) == len(set(arxiv))


def test_your_machine_says_how_to_get_a_run(book):
    text = book["book/your_machine.html"].text
    assert "No run yet" in text and "make book" in text


def test_your_machine_shows_the_run(source, built):
    folder = source / "runs" / "compare"
    folder.mkdir(parents=True)
    try:
        (folder / "report.md").write_text(REPORT)
        save_png(folder / "grid.png", grid_image(torch.zeros(4, 3, 8, 8, dtype=torch.uint8)))
        page = Page(build(source) / "book" / "your_machine.html")
    finally:
        shutil.rmtree(source / "runs")
    assert "No run yet" not in page.text
    assert "Run on this machine on 2025-03-01, on a laptop" in page.text and "Recorded on" not in page.text
    assert "seconds per step" in page.text and "0.125" in page.text
    assert "# not a heading" in page.text and "![not a picture](grid.png)" in page.text
    assert page.headings.count("h1") == 1
    samples = [picture for picture in page.pictures if picture["alt"] == "Samples from both"]
    assert len(samples) == 1
    assert (built / "book" / samples[0]["src"]).is_file()
