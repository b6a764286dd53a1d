"""The page "When something goes wrong", made of the table that the tests try, `tests/mistakes.py`.

    python book/make_mistakes.py

writes `when_something_goes_wrong.md` anew: each message, its cause and what to do. So every message on the page is one
that the command beside it gives.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "book" / "when_something_goes_wrong.md"
HEAD = """# When something goes wrong

A mistake in what you type, or a file that cannot be used, is one line that begins with `error:`, and nothing is lost.
Here are the messages that you are most likely to meet. Search the page for a few words of yours; the numbers and names
are those of an example. `ldm-course doctor` checks the installation, the machine and the data.
"""


def text() -> str:
    """The page, from the rows that have a cause."""
    sys.path.insert(0, str(ROOT / "tests"))
    from mistakes import LIKELY

    parts = (
        f"## … {row.says} …\n\n```\nldm-course {row.typed}\n```\n\n"
        f"**Cause.** {row.cause}\n\n**What to do.** {row.mend}\n"
        for row in LIKELY
    )
    return "\n".join([HEAD, *parts])


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
    print(f"wrote {PAGE.name}")
