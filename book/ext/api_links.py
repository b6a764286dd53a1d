"""Sphinx extension: the first mention of a name of the package on a page leads to its entry on the API pages.

An author writes `make_schedule`, `samplers.sample` or `make_schedule("cosine")` as inline code, and nothing else. A
plain word such as `sample` might mean other things, so it is taken for a name only where the page imports it, or, on
the API pages, in the module that has it. What stands in headings, in the heads of tables and in links is left alone,
and so is a name that two modules share.

The package's docstrings are plain text with `code` in single backticks; here they are made fit for reStructuredText.
"""

import re

from docutils import nodes
from sphinx.addnodes import desc, desc_signature
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

PACKAGE = "ldm_course"
IMPORT = re.compile(rf"^from {PACKAGE}\.(\w+) import ((?:[\w, ]|\([^)]*\))+)", re.MULTILINE)
MENTION = re.compile(r"([A-Za-z_][\w.]*)(\(.*\))?", re.DOTALL)


def plain(text: str) -> str:
    """A docstring as reStructuredText: `code` is code, *stress* is stress, and every other sign stands for itself."""
    parts = re.split(r"`([^`]+)`", text)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"``{' '.join(part.split())}``"
            # code that touches a letter, as in `x`s, needs a mark between
            parts[i] = "\\ " * bool(re.search(r"\w$", parts[i - 1])) + parts[i]
            parts[i] += "\\ " * bool(re.match(r"\w", parts[i + 1]))
        else:
            part = re.sub(r"\\|\||(?<=\w)_(?!\w)", r"\\\g<0>", part)
            parts[i] = re.sub(r"(?<!\w)\*(?=\w[^*\n]*\*)[^*\n]+\*|\*", lambda m: m[0] if len(m[0]) > 1 else r"\*", part)
    lines: list[str] = []
    for line in "".join(parts).split("\n"):  # a list begins after an empty line
        if line.lstrip().startswith("- ") and lines and lines[-1].strip() and not _in_list(lines):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def _in_list(lines: list[str]) -> bool:
    """Whether the paragraph that these lines end with is a list's."""
    for line in reversed(lines):
        if line.lstrip().startswith("- "):
            return True
        if not line.strip():
            return False
    return False


def process_docstring(app, what, name, obj, options, lines):
    lines[:] = plain("\n".join(lines)).split("\n")


def known_names(objects: dict) -> dict[str, str | None]:
    """What may be written -> the full name that is meant, or None where that is not clear."""
    names: dict[str, str | None] = {}
    for full, entry in objects.items():
        if not full.startswith(f"{PACKAGE}.") or entry.aliased:
            continue
        parts = full.split(".")
        keys = [".".join(parts[i:]) for i in range(len(parts) - 1)]  # down to two words
        if entry.objtype in ("function", "class", "exception") and re.search(r"[A-Z_]", parts[-1]):
            keys.append(parts[-1])
        for key in keys:
            names[key] = full if names.get(key, full) == full else None
    return names


def imported(document: nodes.document) -> dict[str, str]:
    """What the page's own code imports from the package, by its short name."""
    found = {}
    for block in document.findall(nodes.literal_block):
        for module, names in IMPORT.findall(block.astext()):
            found.update({name: f"{PACKAGE}.{module}.{name}" for name in re.findall(r"\w+", names)})
    return found


def home_of(node: nodes.Node) -> str | None:
    """On an API page, the module whose entry the node stands in."""
    while node is not None:
        if isinstance(node, desc):
            return next((signature["module"] for signature in node.findall(desc_signature)), None)
        node = node.parent
    return None


def out_of_the_way(node: nodes.Node, stop=(nodes.Titular, nodes.reference, nodes.thead)) -> bool:
    """Whether the node is in a place where no link is put."""
    parent = node.parent
    while parent is not None:
        if isinstance(parent, stop) or "title" in type(parent).__name__:
            return True
        parent = parent.parent
    return False


class LinkMentions(SphinxPostTransform):
    default_priority = 200  # after the references that authors made themselves
    formats = ("html",)

    def run(self, **kwargs):
        objects = self.env.domaindata["py"]["objects"]
        names, seen = {**known_names(objects), **imported(self.document)}, set()
        for reference in self.document.findall(nodes.reference):
            seen.add(reference.get("reftitle"))  # the full name, where an author linked it
        for literal in list(self.document.findall(nodes.literal)):
            mention = MENTION.fullmatch(literal.astext().strip())
            if mention is None or out_of_the_way(literal):
                continue
            here = f"{home_of(literal)}.{mention[1]}"
            full = here if here in objects else names.get(mention[1])
            entry = objects.get(full)
            if entry is None or full in seen or self._is_own(literal, entry.node_id):
                continue
            seen.add(full)
            link = make_refnode(
                self.app.builder, self.env.docname, entry.docname, entry.node_id, literal.deepcopy(), full
            )
            link["classes"].append("ldm-api")
            literal.replace_self(link)

    @staticmethod
    def _is_own(node, node_id: str) -> bool:
        """Whether the mention stands in the very entry that it would lead to."""
        while node is not None:
            if isinstance(node, desc):
                return any(node_id in signature["ids"] for signature in node.findall(desc_signature))
            node = node.parent
        return False


def setup(app):
    app.connect("autodoc-process-docstring", process_docstring)
    app.add_post_transform(LinkMentions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
