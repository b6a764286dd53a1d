"""How fast are the live figures? The demo's engine in a browser, onnxruntime-web, and PyTorch, with one thread each.

    pip install -e ".[book,test,bench]"                     # and a Chromium on the machine
    python benchmarks/live.py                               # the engine, with and without fused arithmetic, and PyTorch
    npm pack onnxruntime-web && tar xzf onnxruntime-web-*.tgz && pip install onnx onnxscript
    python benchmarks/live.py --onnx package/dist           # and onnxruntime-web

One picture at a time, as the figures draw. In each round every engine makes one call of each network, by turns, so that
a machine that does something else disturbs all alike; the ratios are of one round, and their median counts. Outputs
are compared, and a run that differs stops.
"""

from __future__ import annotations

import argparse
import base64
import functools
import http.server
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from ldm_course.checkpoints import pretrained, pretrained_path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "book" / "ext"), str(ROOT / "tests" / "book")]
import browsers  # noqa: E402
import live_demo  # noqa: E402

NETWORKS = ("emoji-32-pixel", "emoji-32-latent", "text2image-64")  # of a latent one, the decoder too
PAGE = """<!doctype html><meta charset="utf-8"><title>benchmark</title>%s<script>
"use strict";
const base = f => btoa(Array.from(new Uint8Array(f.slice().buffer), b => String.fromCharCode(b)).join(""));
const floats = text => new Float32Array(decode_base64(text)), fetched = async name => (await fetch(name)).arrayBuffer();
const engines = {};  // by name, and in each the networks' calls by name: an array to an array
%s
async function timed(engine, network, n, input) {  // of n calls, the milliseconds of the last, and what it gave
  let ms, y;
  for (const x = floats(input); n > 0; n--) {
    const began = performance.now();
    y = await engines[engine][network](x);
    ms = performance.now() - began;
  }
  return { ms, y: base(y) };
}
</script>"""
OURS = """engines["%(kind)s"] = (() => { %(engine)s
  const files = %(files)s, calls = {}, kernels = { relaxed: KERNELS["%(kernel)s"], plain: KERNELS.plain };
  const begun = (async () => {
    start(kernels);
    for (const [name, [file, first_stage, words]] of Object.entries(files)) {
      const d = load_denoiser([await fetched(file)], first_stage ? [await fetched(first_stage)] : null);
      const { asked } = d.condition({ label: 0, words });
      calls[name] = x => d.model.forward(x, d.space.side, 500, asked);
      if (first_stage) { calls[name + ", decoder"] = x => d.to_pictures(x); }
    }
  })();
  return Object.assign(calls, { begun }); })();
"""
ORT = """ort.env.wasm.numThreads = 1; engines.ort = {};
async function load_ort(name, shape) {
  const session = await ort.InferenceSession.create(await fetched(name + ".onnx"), { executionProviders: ["wasm"] });
  engines.ort[name] = async x => (await session.run({ x: new ort.Tensor("float32", x, shape) })).y.data;
}
"""


class Given(torch.nn.Module):
    """A network at one noise level and one condition: from x alone."""

    def __init__(self, model, condition):
        super().__init__()
        self.model = model
        self.register_buffer("t", torch.tensor([500]))
        self.register_buffer("condition", condition)

    def forward(self, x):
        return self.model(x, self.t, self.condition)


class Decoded(torch.nn.Module):
    def __init__(self, autoencoder):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, z):
        return self.autoencoder.from_latents(z)


def calls() -> dict[str, tuple[torch.nn.Module, torch.Tensor]]:
    """What is timed: a module from one tensor to one, and that tensor."""
    found = {}
    for name in NETWORKS:
        d = pretrained(name)
        condition = d.condition(1, prompt="a red star") if d.reads else d.condition(1, label=0)
        x = torch.randn(1, *d.space.shape, generator=torch.Generator().manual_seed(0))
        found[name] = Given(d.model, condition.asked).eval(), x
        if d.space.name == "latent":
            found[f"{name}, decoder"] = Decoded(d.space.autoencoder).eval(), x
    return found


def page(folder: Path, timed: dict, onnx: Path | None) -> None:
    files = {}
    for name in NETWORKS:
        path = pretrained_path(name)
        about = live_demo.header(path.read_bytes())[0]["__metadata__"]
        stage = live_demo.json.loads(about["meta"])["autoencoder"]
        files[name] = [path.name, stage, ["a", "red", "star"] if about["kind"] == "text-unet" else []]
        for file in filter(None, (path.name, stage)):
            (folder / file).write_bytes(path.with_name(file).read_bytes())
    read = lambda names: "\n".join((ROOT / "demo" / f"{name}.js").read_text() for name in names)  # noqa: E731
    engine, script = read(["kernel", *live_demo.ENGINE]), read(["checkpoints"]).split("const EIGHT_BIT")[0]
    for kernel in ("relaxed", "plain"):
        values = {"kind": kernel, "kernel": kernel, "engine": engine, "files": live_demo.json.dumps(files)}
        script += OURS % values
    head = ""
    if onnx:
        head = '<script src="ort.wasm.min.js"></script>'
        script += ORT
        for file in ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
            (folder / file).write_bytes((onnx / file).read_bytes())
        for name, (module, x) in timed.items():
            path = folder / f"{name}.onnx"
            torch.onnx.export(module, (x,), path, input_names=["x"], output_names=["y"], external_data=False)
    (folder / "index.html").write_text(PAGE % (head, script))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--onnx", type=Path, help="the folder `dist` of the npm package onnxruntime-web")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    timed = calls()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page(folder, timed, options.onnx)

        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *words):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = browsers.opened("chromium", folder)
        browser.open(f"http://127.0.0.1:{server.server_port}/index.html")
        engines = ["relaxed", "plain", *["ort"] * bool(options.onnx)]
        for engine in engines[:2]:
            browser.run(f"engines.{engine}.begun")
        for name, (_, x) in timed.items() if options.onnx else ():
            browser.run(f"load_ort({name!r}, {list(x.shape)})")
        report(measure(browser, engines, timed, options.rounds))
        browser.close()


@torch.inference_mode()
def measure(browser, engines: list[str], timed: dict, rounds: int) -> dict:
    """Milliseconds by (network, engine), a list of rounds."""
    found = {}
    for name, (module, x) in timed.items():
        text = base64.b64encode(x.numpy().astype("<f4").tobytes()).decode()
        wanted = module(x)
        for i in range(rounds + 1):
            for engine in engines if i % 2 else engines[::-1]:
                result = browser.run(f"timed({engine!r}, {name!r}, {1 if i else 20}, {text!r})")
                y = torch.from_numpy(np.frombuffer(base64.b64decode(result["y"]), "<f4").copy()).view_as(wanted)
                assert (y - wanted).abs().max() < 1e-3, f"{engine} computes another {name}"
                found.setdefault((name, engine), []).append(result["ms"])
            began = time.perf_counter()
            module(x)
            found.setdefault((name, "torch"), []).append(1e3 * (time.perf_counter() - began))
    return {key: times[1:] for key, times in found.items()}  # the first round warms up


def report(found: dict) -> None:
    head = ("network", "engine", "ms, median", "ms, least", "times PyTorch's")
    print("{:26} {:8} {:>10} {:>10} {:>16}".format(*head))
    for (name, engine), times in found.items():
        ratio = statistics.median(a / b for a, b in zip(times, found[name, "torch"]))
        print(f"{name:26} {engine:8} {statistics.median(times):10.1f} {min(times):10.1f} {ratio:16.2f}")


if __name__ == "__main__":
    main()
