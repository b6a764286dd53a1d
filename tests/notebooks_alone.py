"""Runs notebooks as a reader's Colab does: each alone in an empty folder, the package from its wheel.

`python tests/notebooks_alone.py NOTEBOOK...`, with the Python of the environment under test. LDM_CACHE, if unset, is
one temporary folder for all of them. Exits with 1 if a cell of any failed, and names it.
"""

import os
import re
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

TIMEOUT = 600  # seconds a cell


def run_alone(notebook: Path) -> str | None:
    """What went wrong, or None."""
    with tempfile.TemporaryDirectory() as folder:
        page = nbformat.read(notebook, as_version=4)
        client = NotebookClient(page, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": folder}})
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            return re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # without the colours
    return None


def main(notebooks: list[str]) -> int:
    import ldm_course

    package = Path(ldm_course.__file__).resolve()
    if not package.is_relative_to(Path(sysconfig.get_path("purelib")).resolve()):
        print(f"error: ldm_course is taken from {package.parent}; expected the installed wheel", file=sys.stderr)
        return 1
    for name in ("LDM_HOME", "LDM_DATA", "PYTHONPATH"):
        os.environ.pop(name, None)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of this environment, not one of the same name elsewhere
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # a debugger that nobody asked for warns otherwise
    failed = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("LDM_CACHE", cache)
        for notebook in notebooks:
            begun = time.perf_counter()
            error = run_alone(Path(notebook))
            print(f"{'FAILED' if error else 'passed'}  {notebook}  {time.perf_counter() - begun:.0f} s", flush=True)
            if error:
                failed.append(notebook)
                print(error, flush=True)
    print(f"{len(notebooks) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
