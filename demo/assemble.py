"""Makes kernel.js of kernel.wat: the loops as bytes, which a page from the file system could not load.

    pip install wasmtime
    python demo/assemble.py

Text in, text out, the same bytes each time; a test compares.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

HERE = Path(__file__).parent
# (f32x4.relaxed_madd a b c) is a * b + c, rounded once or twice, as the machine likes
A = r"(\(local\.get \$\w+\)|\(f32x4\.splat \(f32\.const [^\s()]+\)\))"
FUSED = re.compile(rf"\(f32x4\.relaxed_madd {A} {A} {A}\)")


def kernels() -> dict[str, bytes]:
    """The two modules, best first."""
    from wasmtime import wat2wasm

    wat = (HERE / "kernel.wat").read_text()
    return {
        "relaxed": bytes(wat2wasm(wat)),
        "plain": bytes(wat2wasm(FUSED.sub(r"(f32x4.add \3 (f32x4.mul \1 \2))", wat))),
    }


def script() -> str:
    lines = [f'  {name}: "{base64.b64encode(code).decode()}",' for name, code in kernels().items()]
    head = "// kernel.wat as bytes, made by assemble.py. `relaxed` needs relaxed SIMD, `plain` only SIMD."
    return "\n".join([head, "const KERNELS = {", *lines, "};", ""])


if __name__ == "__main__":
    (HERE / "kernel.js").write_text(script())
