"""Sphinx extension: puts what ran on this machine into the page `book/your_machine`.

`ldm-course compare` leaves `runs/compare/` with report.md and its pictures, `ldm-course gallery` `runs/gallery/` with
gallery.md. The page has a marker for each in its text, and this replaces the marker by the file, or by a word on how to
get one.
"""

import re
from pathlib import Path

PAGE = "book/your_machine"
PARTS = {"<!-- live run -->": "runs/compare/report.md", "<!-- gallery -->": "runs/gallery/gallery.md"}
NONE_YET = """```{admonition} No run yet
:class: note
This copy of the book was built without a run of its own. `make book` makes one and builds the book with it;
`ldm-course COMMAND` alone makes one that the next `make html` picks up.
```
"""


def report(root: Path, file: str) -> str:
    """A live report as a part of the page: headings one level down, pictures found from the book's root."""
    path = root / file
    folder = path.parent.relative_to(root).as_posix()
    if not path.is_file():
        return NONE_YET.replace("COMMAND", path.parent.name)
    lines, fence = [], None
    for line in path.read_text(encoding="utf-8").splitlines():
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if fence is None and mark:
            fence = mark[1]
        elif fence is not None:
            fence = None if line.strip() == fence else fence
        else:
            line = re.sub(r"^(#{1,5} )", r"#\1", line)
            line = re.sub(r"^Recorded on ", "Run on this machine on ", line)
            # ![text](grid.png) is beside the report; a leading / is the book's root
            line = re.sub(r"(!\[[^\]]*\]\()(?![/#]|\w+:)", rf"\1/{folder}/", line)
        lines.append(line)
    return "\n".join(lines) + "\n"


def insert(app, docname, source):
    if docname != PAGE:
        return
    for marker, file in PARTS.items():
        app.env.note_dependency(str(Path(app.srcdir) / file))
        source[0] = source[0].replace(marker, report(Path(app.srcdir), file))


def setup(app):
    app.connect("source-read", insert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
