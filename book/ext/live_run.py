"""Sphinx extension: puts the comparison that ran on this machine into the page `book/your_machine`.

`ldm-course compare` leaves `runs/compare/` with report.md and its pictures. The page has a marker in
its text, and this replaces the marker by the report, or by a word on how to get one.
"""

import re
from pathlib import Path

PAGE, MARKER = "book/your_machine", "<!-- live run -->"
FOLDER = "runs/compare"
NONE_YET = """```{admonition} No run yet
:class: note
This copy of the book was built without a run of its own. `make book` makes one and builds the book with it;
`ldm-course compare` alone makes one that the next `make html` picks up.
```
"""


def report(root: Path) -> str:
    """The live report as a part of the page: headings one level down, pictures found from the book's root."""
    path = root / FOLDER / "report.md"
    if not path.is_file():
        return NONE_YET
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
            line = re.sub(r"(!\[[^\]]*\]\()(?![/#]|\w+:)", rf"\1/{FOLDER}/", line)
        lines.append(line)
    return "\n".join(lines) + "\n"


def insert(app, docname, source):
    if docname != PAGE:
        return
    app.env.note_dependency(str(Path(app.srcdir) / FOLDER / "report.md"))
    source[0] = source[0].replace(MARKER, report(Path(app.srcdir)))


def setup(app):
    app.connect("source-read", insert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
