"""Sphinx extension: the first mention of a name of the package on a page leads to its entry on the API pages.

An author writes `make_schedule`, `samplers.sample` or `make_schedule("cosine")` as inline code, and nothing else. A
plain word such as `sample` might mean other things, so it is taken for a name only where the page imports it, or, on
the API pages, in the module that has it. A module is named with its folder, `diffusion.samplers`; only the docstring of
a module may call another one `samplers`. What stands in headings, in the heads of tables and in links is left alone,
and so is a name that two modules share.

The package's docstrings are plain text with `code` in single backticks; here they are made fit for reStructuredText.
Two directives show what only the code knows: `ldm-folder`, a folder's docstring; `ldm-public`, the names at the top.
"""

import ast
import inspect
import re
from importlib import import_module
from textwrap import dedent

from docutils import nodes
from sphinx.addnodes import desc, desc_parameter, desc_signature
from sphinx.ext import autosummary
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

from ldm_course import PUBLIC

PACKAGE = "ldm_course"
HOMES = {name: f"{PACKAGE}.{module}.{name}" for module, names in PUBLIC.items() for name in names}
IMPORT = re.compile(rf"^[ \t]*from {PACKAGE}[\w.]* import (?:\([^)]*\)|.*)", re.MULTILINE)
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


def process_signature(app, what, name, obj, options, signature, returns):
    """A dataclass's `<factory>` is no expression, and would keep the whole signature from being read."""
    return signature and signature.replace("<factory>", "..."), returns


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
    return names | {f"{PACKAGE}.{name}": full for name, full in HOMES.items()}


def imported(document: nodes.document) -> dict[str, str]:
    """What the page's own code imports from the package: the name that it has there -> its full name."""
    found = {}
    for block in document.findall(nodes.literal_block):
        code = re.sub(r"#.*|\\\n", "", block.astext())  # comments may have brackets; a line may go on in the next
        for statement in IMPORT.findall(code):
            try:
                (node,) = ast.parse(dedent(statement)).body
            except (SyntaxError, ValueError):  # prose, or several statements in one line
                continue
            homes = HOMES if node.module == PACKAGE else {}
            found |= {a.asname or a.name: homes.get(a.name, f"{node.module}.{a.name}") for a in node.names}
    return found


def home_of(node: nodes.Node) -> tuple[str | None, bool]:
    """On an API page, the module whose entry the node stands in; and whether it is in that module's own docstring."""
    while node is not None:
        if isinstance(node, desc):
            return next((signature["module"] for signature in node.findall(desc_signature)), None), False
        ids = (
            node.get("ids", ()) if isinstance(node, nodes.Element) else ()
        )  # docutils gives the module's to its section
        for module in (name.removeprefix("module-") for name in ids if name.startswith(f"module-{PACKAGE}")):
            return module, True
        node = node.parent
    return None, False


def parameters(node: nodes.Node) -> set[str]:
    """The names that the entries around the node give to their own arguments: there they mean nothing else."""
    found = set()
    while node is not None:
        if isinstance(node, desc):
            signatures = (child for child in node.children if isinstance(child, desc_signature))
            found |= {p[0].astext() for signature in signatures for p in signature.findall(desc_parameter) if len(p)}
        node = node.parent
    return found


def meant(word: str, home: tuple[str | None, bool], page: dict[str, str], names: dict, objects: dict) -> str | None:
    """The full name of what is mentioned as `word`, or None: by the module where it stands, by the `page`'s imports, or
    by `names`, which are known everywhere."""
    module, own_docstring = home
    if module and f"{module}.{word}" in objects:
        return f"{module}.{word}"
    if own_docstring and (other := other_module(word, module, objects)):
        return other
    first, *rest = word.split(".")
    full = ".".join([page.get(first, ""), *rest])
    if full in objects and (rest or objects[full].objtype != "module"):
        return full
    return names.get(word)


def other_module(word: str, module: str, objects: dict) -> str | None:
    """The module that `module`'s docstring calls `word`: the nearest one beside it or above, or the only one below."""
    named = [full for full, entry in objects.items() if entry.objtype == "module" and full.endswith(f".{word}")]
    above = module
    while above := above.rpartition(".")[0]:
        if f"{above}.{word}" in named:
            return f"{above}.{word}"
    below = [full for full in named if full.startswith(f"{module}.")]
    return below[0] if len(below) == 1 else None


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
        page, names, seen = imported(self.document), known_names(objects), set()
        for reference in self.document.findall(nodes.reference):
            seen.add(reference.get("reftitle"))  # the full name, where an author linked it
        for literal in list(self.document.findall(nodes.literal)):
            mention = MENTION.fullmatch(literal.astext().strip())
            if mention is None or out_of_the_way(literal) or mention[1] in parameters(literal):
                continue
            full = meant(mention[1], home_of(literal), page, names, objects)
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


class FolderText(SphinxDirective):
    """What a folder of the package says of itself, for the overview."""

    required_arguments = 1

    def run(self):
        return self.parse_text_to_nodes(plain(inspect.getdoc(import_module(f"{PACKAGE}.{self.arguments[0]}"))))


class PublicNames(SphinxDirective):
    """The names in the package's PUBLIC, each with its signature and its first sentence."""

    def run(self):
        entries = "".join(f"   ~{full}\n" for full in HOMES.values())
        return self.parse_text_to_nodes(f".. py:currentmodule:: None\n\n.. autosummary::\n\n{entries}")


def setup(app):
    autosummary.WELL_KNOWN_ABBREVIATIONS += ("eq.",)  # no sentence ends there
    app.add_directive("ldm-folder", FolderText)
    app.add_directive("ldm-public", PublicNames)
    app.connect("autodoc-process-docstring", process_docstring)
    app.connect("autodoc-process-signature", process_signature)
    app.add_post_transform(LinkMentions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
