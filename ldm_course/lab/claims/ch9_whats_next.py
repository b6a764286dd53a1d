"""The claims of chapter 9, what comes next."""

from __future__ import annotations

from .verdicts import claim

for _id, _says in {
    "C9.1": "Better autoencoders give fewer artefacts.",
    "C9.2": "Cascades reach high resolution in several stages.",
    "C9.3": "Consistency models generate in one step.",
    "C9.4": "Video adds temporal coherence.",
    "C9.5": "Through all of these, a compressed, semantically meaningful space stays the more efficient one.",
}.items():
    claim(_id, _says, "chapter 9")(None)
