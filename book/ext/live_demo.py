"""Sphinx extension: figures in which the course's networks draw in the reader's browser (demo/README.md).

    ```{live} emoji-32
    :rows: pixel ddim 50; latent ddim 50
    :controls: kind count guidance seed along
    :values: count=4 guidance=2

    What stands here is for readers without scripts.
    ```

The argument is one of the choices in demo/models.json. A row is a space, a method and a number of steps; `fixed` after
them keeps the number from the steps control, and `claimed=0.82` puts a claim of seconds beside what is measured. What a
page needs is made when the book is built: `_static/live/live.js` of the scripts in demo/, and of each checkpoint
that some page asks for a script with its bytes, which is all that a page from the file system may load. An
autoencoder is cut in two, since only who draws on a picture (the control `canvas`) needs the encoder.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import struct
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from ldm_course.checkpoints import pretrained_path

OUT = "_static/live"
NAMES = "emoji-names"
# in the order of the package, so that each uses only what stands before it
ENGINE = ["tensors", "layers", "unet", "autoencoder", "text", "samplers", "editing", "denoiser", "checkpoints"]
WORKER = ["kernel", *ENGINE, "worker"]
PAGE = ["checkpoints", "samplers", "text", "page", "easel", "live"]  # of the engine: base64, noise, words
METHODS, CONTROLS = (
    ("ddim", "ddpm", "dpmpp"),
    ("prompt", "kind", "count", "guidance", "steps", "seed", "guess", "along", "canvas"),
)
ENCODER = ("encoder.", "quant_conv.")


def script(demo: Path) -> str:
    """live.js: the page's side, with the worker's as a text inside, since a page from a file may start no other."""
    read = lambda names: "\n".join((demo / f"{name}.js").read_text(encoding="utf-8") for name in names)  # noqa: E731
    worker = json.dumps(read(WORKER), ensure_ascii=False).replace("</", "<\\/")
    return f'(() => {{\n"use strict";\nconst WORKER = {worker};\n{read(PAGE)}}})();\n'


def header(raw: bytes) -> tuple[dict, bytes]:
    """A safetensors file's header, and the numbers."""
    (n,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + n]), raw[8 + n :]


def part(raw: bytes, wanted) -> bytes:
    """A safetensors file with those of its tensors whose name is `wanted`, all bytes as they were."""
    head, numbers = header(raw)
    kept, found = {"__metadata__": head.pop("__metadata__")}, b""
    for name, entry in head.items():
        if wanted(name):
            first, last = entry["data_offsets"]
            kept[name] = entry | {"data_offsets": [len(found), len(found) + last - first]}
            found += numbers[first:last]
    text = json.dumps(kept, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + found


@cache
def weights(path: Path) -> dict[str, bytes]:
    """A checkpoint as files for the page, by name: one, or of an autoencoder two."""
    raw = path.read_bytes()
    if header(raw)[0]["__metadata__"]["kind"] != "autoencoder":
        return {path.stem: raw}
    is_encoder = lambda name: name.startswith(ENCODER)  # noqa: E731
    return {
        f"{path.stem}-decoder": part(raw, lambda name: not is_encoder(name)),
        f"{path.stem}-encoder": part(raw, is_encoder),
    }


@cache
def emoji_names() -> bytes:
    """What `text.words_of` calls each emoji, as JSON: a prompt may have some."""
    import emoji

    plain = {c: emoji.demojize(c, delimiters=("", "")).replace("_", " ") for c in emoji.EMOJI_DATA if "\ufe0f" not in c}
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()


def as_script(name: str, raw: bytes) -> str:
    return f'ldm_weights("{name}","{base64.b64encode(raw).decode()}");\n'


def version(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:8]


def facts(spaces: dict[str, str], encoder: bool) -> tuple[dict, set[Path]]:
    """What the page has to know of a choice of models before it loads them, and their checkpoints."""
    found, paths = {"size": 0, "classes": [], "bytes": 0, "spaces": {}}, set()

    def files(path: Path) -> list[dict]:
        paths.add(path)
        kept = {n: raw for n, raw in weights(path).items() if encoder or not n.endswith("-encoder")}
        found["bytes"] += sum(len(as_script(n, raw)) for n, raw in kept.items())
        return [{"name": n, "version": version(raw)} for n, raw in kept.items()]

    for space, name in spaces.items():
        path = pretrained_path(name)
        text = header(path.read_bytes())[0]["__metadata__"]
        config, about = json.loads(text["config"]), json.loads(text["meta"])
        unet = config.get("unet", config)
        side, autoencoder = about["size"], []
        if about["autoencoder"]:
            first_stage = path.with_name(about["autoencoder"])
            autoencoder = files(first_stage)
            widths = json.loads(header(first_stage.read_bytes())[0]["__metadata__"]["config"])["block_out_channels"]
            side //= 2 ** (len(widths) - 1)
        found |= {"size": about["size"], "classes": about.get("classes") or []}
        if "text" in config:
            found |= {"length": config["text"]["length"]}
            found |= {"names": {"name": NAMES, "version": version(emoji_names())}}
            found["bytes"] += len(as_script(NAMES, emoji_names()))
        found["spaces"][space] = {
            "channels": unet["in_channels"],
            "side": side,
            "files": files(path),
            "autoencoder": autoencoder,
        }
    return found, paths


def row(text: str) -> dict:
    """`pixel ddim 50`, and what may follow."""
    try:
        space, method, steps, *more = text.split()
        found = {"space": space, "method": method, "steps": int(steps)}
        for word in more:
            key, _, value = word.partition("=")
            found[key] = {"fixed": lambda v: True, "claimed": float}[key](value)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{text!r} is no row; expected such as 'latent ddim 50 claimed=1.41'") from error
    if space not in ("pixel", "latent") or method not in METHODS or not 1 <= found["steps"] <= 1000:
        raise ValueError(f"{text!r} is no row; a space, one of {', '.join(METHODS)}, and 1 to 1000 steps")
    return found


def rows(text: str) -> list[dict]:
    return [row(part) for part in text.split(";")]


def controls(text: str) -> list[str]:
    if unknown := set(text.split()) - set(CONTROLS):
        raise ValueError(f"no controls {sorted(unknown)}; there are {', '.join(CONTROLS)}")
    return text.split()


def values(text: str) -> dict[str, str]:
    """`count=4; prompt=a red star`."""
    return {key.strip(): value.strip() for key, _, value in (pair.partition("=") for pair in text.split(";"))}


class Live(SphinxDirective):
    required_arguments = 1
    has_content = True
    option_spec = {"rows": rows, "controls": controls, "values": values}  # noqa: RUF012

    def run(self):
        demo = Path(self.env.srcdir) / "demo"
        choices = json.loads((demo / "models.json").read_text(encoding="utf-8"))
        if self.arguments[0] not in choices:
            raise self.error(f"no models {self.arguments[0]!r}; demo/models.json has {', '.join(choices)}")
        wanted = self.options.get("rows") or rows("pixel ddim 50; latent ddim 50")
        spaces = {row["space"]: choices[self.arguments[0]][row["space"]] for row in wanted}
        shown = self.options.get("controls", ["kind", "count", "seed"])
        model, paths = facts(spaces, "canvas" in shown)
        for path in [*paths, *demo.iterdir()]:
            self.env.note_dependency(str(path))
        if not hasattr(self.env, "ldm_live"):
            self.env.ldm_live = {}
        self.env.ldm_live.setdefault(self.env.docname, set()).update(map(str, paths))
        folder = "../" * self.env.docname.count("/") + OUT + "/"
        data = {
            "folder": folder,
            "model": model,
            "rows": wanted,
            "controls": shown,
            "values": self.options.get("values", {}),
        }
        text = html.escape(json.dumps(data, ensure_ascii=False, separators=(",", ":")))
        source = f"{folder}live.js?v={version(script(demo).encode())}"
        return [
            nodes.raw("", f'<div class="ldm-live" data-live="{text}">', format="html"),
            *self.parse_content_to_nodes(),
            nodes.raw("", f'</div><script src="{source}" defer></script>', format="html"),
        ]


def forget(app, env, docname):
    getattr(env, "ldm_live", {}).pop(docname, None)


def merge(app, env, docnames, other):
    env.ldm_live = getattr(env, "ldm_live", {}) | getattr(other, "ldm_live", {})


def write(app, error):
    """Puts the scripts beside the pages, if a page asks for any."""
    asked = getattr(app.env, "ldm_live", {})
    if error or not asked or app.builder.format != "html":
        return
    out = Path(app.outdir) / OUT
    out.mkdir(parents=True, exist_ok=True)
    for name in ("kernel", *ENGINE):
        if not (Path(app.srcdir) / "demo" / f"{name}.js").is_file():
            raise ExtensionError(f"demo/{name}.js is missing")
    (out / "live.js").write_text(script(Path(app.srcdir) / "demo"), encoding="utf-8")
    for path in set().union(*asked.values()):
        for name, raw in weights(Path(path)).items():
            (out / f"{name}.js").write_text(as_script(name, raw), encoding="ascii")
    (out / f"{NAMES}.js").write_text(as_script(NAMES, emoji_names()), encoding="ascii")


def setup(app):
    app.add_directive("live", Live)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 1}
