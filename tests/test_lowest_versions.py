"""Every dependency has a lowest version, which `make test-oldest` installs."""

import pytest
from conftest import ROOT
from lowest_versions import constraints, lowest


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ("torch>=2.4", "torch==2.4"),
        ("a-b_c.d >= 1.0.4, <2", "a-b_c.d==1.0.4"),
        ("pinned==0.1.0", "pinned==0.1.0"),
        ("some[extra]>=3; python_version < '3.13'", "some==3"),
        ("ldm-course[notebook]", None),
    ],
)
def test_the_lowest_version_is_the_lower_bound(requirement, expected):
    assert lowest(requirement) == expected


@pytest.mark.parametrize("requirement", ["numpy", "numpy<2", "numpy>1", "numpy>=1,>=2"])
def test_no_lower_bound_is_refused(requirement):
    with pytest.raises(ValueError, match="no lowest version for 'numpy"):
        lowest(requirement)


def test_every_dependency_has_one():
    found = constraints(ROOT / "pyproject.toml", ["notebook", "book", "published", "test"])
    assert {"torch==2.4", "ipython==7.34"} <= set(found)
