"""Lines of code with their papers in front: the right lines, and an error where the code has changed."""

import pytest

from ldm_course.page.listing import show_lines


def steps(x):
    x = x + 1  # not shown
    if x:
        y = "a line that is much too long to stand beside a mark on a page of eighty characters"
        x = 2 * x
    return x, y


def test_a_functions_lines_stand_beside_their_marks(capsys):
    show_lines(steps, "if x:", "return x", {"2 * x": "DDPM", "if x": "LDM"})
    lines = capsys.readouterr().out.splitlines()
    assert [line[:8] for line in lines] == ["LDM   │ ", "      │ ", "DDPM  │ ", "      │ "]
    assert lines[0] == "LDM   │ if x:" and lines[2] == "DDPM  │     x = 2 * x"
    assert lines[1].endswith("…") and max(map(len, lines)) == 76


def test_lines_can_be_left_out(capsys):
    show_lines(steps, "if x:", "return x", {}, ["much too long"])
    assert capsys.readouterr().out.splitlines() == ["      │ if x:", "      │     x = 2 * x", "      │ return x, y"]


@pytest.mark.parametrize(
    ("first", "last", "whose", "says"),
    [
        ("if z:", "return", {}, "no lines from 'if z:'"),
        ("return", "if x:", {}, "no lines from 'return' to"),
        ("if x:", "return", {"x + 1": "DDPM"}, "exactly one"),  # stands before the first
        ("def", "return", {"x": "DDPM"}, "exactly one"),
    ],
)
def test_code_that_has_changed_stops_the_page(first, last, whose, says):
    with pytest.raises(ValueError, match=says):
        show_lines(steps, first, last, whose)
