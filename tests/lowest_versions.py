"""Prints the lowest versions that pyproject.toml allows, as constraints for pip: what `make test-oldest` installs."""

import re
import sys
import tomllib
from pathlib import Path

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?P<extras>\[[^]]*\])?(?P<bounds>[^;]*)")


def lowest(requirement: str) -> str | None:
    """`"a>=1.2,<2"` gives `"a==1.2"`; an extra of the package itself, None. ValueError: there is no lower bound."""
    parts = REQUIREMENT.match(requirement)
    if parts["name"] == "ldm-course":
        return None
    bounds = [b.replace(" ", "") for b in parts["bounds"].split(",")]
    versions = [b[2:] for b in bounds if b.startswith((">=", "=="))]
    if len(versions) != 1:
        raise ValueError(f"pyproject.toml gives no lowest version for {requirement!r}; expected a bound such as >=1.2")
    return f"{parts['name']}=={versions[0]}"


def constraints(pyproject: Path, extras: list[str]) -> list[str]:
    """One line for each dependency of the package, and of its `extras`."""
    project = tomllib.loads(pyproject.read_text())["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][e] for e in extras)]
    return [line for group in groups for line in map(lowest, group) if line]


if __name__ == "__main__":
    print("\n".join(constraints(Path(__file__).parent.parent / "pyproject.toml", sys.argv[1:])))
