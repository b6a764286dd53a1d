"""Sphinx extension: in each chapter, the first use of a word of the glossary leads to its entry.

Words are found whole, in either case, in the plural too, and the longest first (so that "latent diffusion" is not taken
for "latent"). Headings, bold openings, code, formulas, links, and the heads of tables are passed over. Where an author
writes {term}`...`, that is the first use.
"""

import re

from api_links import out_of_the_way  # its neighbour in this folder
from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

WHERE = "chapters/"
GLOSSARY = "book/glossary"
PASSED_OVER = (
    nodes.Titular,
    nodes.reference,
    nodes.thead,
    nodes.strong,
    nodes.literal,
    nodes.literal_block,
    nodes.math,
    nodes.math_block,
    nodes.raw,
    nodes.comment,
)


def pattern(terms: list[str]) -> re.Pattern:
    """Any of these words, whole, also in the plural; one that a hyphen ties to another is another word."""
    longest = sorted(terms, key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(_forms, longest))})(?![\w-])", re.IGNORECASE)


def _forms(term: str) -> str:
    """The word as a group of its own, with its plural, and with any space where it has one."""
    stem, ending = (term[:-1], "(?:y|ies)") if re.search(r"[^aeiou]y$", term) else (term, "(?:e?s)?")
    return "(" + r"\s+".join(map(re.escape, stem.split())) + ending + ")"


class LinkTerms(SphinxPostTransform):
    default_priority = 210
    formats = ("html",)

    def run(self, **kwargs):
        if not self.env.docname.startswith(WHERE):
            return
        # term in lower case -> (page, anchor); two words of one entry have anchors of their own
        entries = {
            term.lower(): (page, anchor)
            for (kind, term), (page, anchor) in self.env.domaindata["std"]["objects"].items()
            if kind == "term" and page == GLOSSARY
        }
        if not entries:
            return
        terms = sorted(entries, key=len, reverse=True)
        find, seen = pattern(terms), set()
        for reference in self.document.findall(nodes.reference):
            seen.update(t for t in terms if reference.get("refuri", "").endswith(f"#{entries[t][1]}"))
        for text in list(self.document.findall(nodes.Text)):
            if not out_of_the_way(text, PASSED_OVER):
                self._link(text, find, terms, entries, seen)

    def _link(self, text, find, terms, entries, seen):
        parts, done, words = [], 0, text.astext()
        for match in find.finditer(words):
            term = terms[match.lastindex - 1]
            if term in seen:
                continue
            seen.add(term)
            page, anchor = entries[term]
            link = make_refnode(
                self.app.builder, self.env.docname, page, anchor, nodes.Text(match[0]), "in the glossary"
            )
            link["classes"].append("ldm-term")
            parts += [nodes.Text(words[done : match.start()]), link]
            done = match.end()
        if parts:
            text.parent.replace(text, [part for part in (*parts, nodes.Text(words[done:])) if part.astext()])


def setup(app):
    app.add_post_transform(LinkTerms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
