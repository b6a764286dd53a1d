"""Tables, explorers and self-checks: what their HTML holds before and after a script has touched it."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ldm_course.page import numbers
from ldm_course.page.numbers import si
from ldm_course.page.widgets import lookup, minute, pictures, quiz, say, table


def carried(text):
    """What the script reads."""
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)[1])


def frame_of(text, *setting):
    """The cells that the script would show: the same arithmetic as its own."""
    data, at = carried(text), 0
    for size, index in zip(data["sizes"], setting):
        at = at * size + index
    return [[data["cells"][cell] for cell in row] for row in data["frames"][at]]


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def tags(text, name):
    return [has for tag, has in Tags(text).found if tag == name]


def test_a_number_has_three_digits_and_a_prefix():
    shown = [si(613e6, "FLOP"), si(0.0123, "s"), si(999.96e3, "B"), si(0, "s"), si(5e-8, "s"), si(12.0)]
    assert shown == ["613 MFLOP", "12.3 ms", "1 MB", "0 s", "0.05 µs", "12"]


def test_a_distance_has_its_error_where_it_is_known():
    assert numbers.kd_e({"kd_e": 0.1478, "kd_e_error": 0.0071, "fd_e": 3.0}) == "0.148 ± 0.007"
    assert numbers.kd_e({"kd_e": 0.1478}) == "0.148"


def test_a_number_and_its_error_stay_on_one_line():
    made = table(["", "KD-E"], [["a ± b", "0.148 ± 0.007"]]).data
    assert "0.148\u00a0±\u00a00.007" in made and "a\u00a0±\u00a0b" in made and " ± " not in made
    wide = table([""] * 11, [["0.148 ± 0.007"] * 11]).data  # too wide for the page with every number on one line
    assert wide.count("0.148 ±\u00a00.007") == 11


def test_a_table_refuses_a_row_that_does_not_fit():
    with pytest.raises(ValueError, match="a row has 1 cells under a head of 2"):
        table(["a", "b"], [["x"]])


def test_words_begin_at_the_left_and_numbers_end_at_the_right():
    made = table(["", "n", "why"], [["a", 1, "since"]], words=(2,)).data
    assert [has["style"] for tag, has in Tags(made).found if tag in ("th", "td")] == [
        f"text-align: {side}" for side in ("left", "right", "left", "left", "right", "left")
    ]


def test_the_box_at_the_top_marks_what_is_stressed_and_escapes_the_rest():
    box = minute("""
        Of *few* values, **12 times** fewer,
        `f < 8`.
    """).data
    assert box == (
        '<div class="admonition note"><p class="admonition-title">In one minute</p>'
        "<p>Of <em>few</em> values, <strong>12 times</strong> fewer, <code>f &lt; 8</code>.</p></div>"
    )


def test_a_lookup_carries_every_frame_and_starts_where_it_is_told():
    made = lookup(
        {"a": (1, 2), "b": ("x", "y", "z")},
        lambda a, b: [[f"<{a}{b}>", a / 2]],
        ["", "bar"],
        "a caption",
        start={"b": "y"},
    ).data
    assert carried(made)["sizes"] == [2, 3] and len(carried(made)["frames"]) == 6
    assert frame_of(made, 1, 2)[0] == ["&lt;2z&gt;", '<span class="ldm-bar" style="width: 100.0%"></span>']
    body = made.split("<tbody>")[1].split("</tbody>")[0]
    assert "&lt;1y&gt;" in body and "width: 50.0%" in body
    assert [(s["max"], s["value"]) for s in tags(made, "input")] == [("1", "0"), ("2", "1")]
    labels = {has["for"] for has in tags(made, "label")}
    assert labels == {has["id"] for has in tags(made, "input")}
    with pytest.raises(ValueError, match="b cannot start at 'w'; expected one of x, y, z"):
        lookup({"b": ("x", "y", "z")}, lambda b: [["r", b]], ["", ""], "", start={"b": "w"})
    with pytest.raises(ValueError, match="does not have the 3 cells"):
        lookup({"b": ("x",)}, lambda b: [["r", b]], ["", "", ""], "")


def test_pictures_are_inside_the_page_and_read_out():
    shades = {0: 10, 1: 200}

    def frame(shade):
        return np.full((8, 12, 3), shades[shade], np.uint8), f"shade {shades[shade]} & more"

    made = pictures({"shade": (0, 1)}, frame, "a caption", start={"shade": 1}).data
    (first,) = tags(made.split('<script type="application/json">')[0], "img")
    assert first["alt"] == "shade 200 & more" and "pixelated" in first["style"]
    for shade in (0, 1):
        image, words = frame_of(made, shade)[0]
        data = tags(image, "img")[0]["src"].removeprefix("data:image/webp;base64,")
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
        assert decoded.shape == (8, 12, 3) and abs(decoded.astype(int) - shades[shade]).max() < 4
        assert words == f"shade {shades[shade]} &amp; more"
    with pytest.raises(ValueError, match=r"a frame's picture is float64 \(2, 2\)"):
        pictures({"a": (1,)}, lambda a: (np.zeros((2, 2)), ""), "")


def test_the_same_data_give_the_same_text_and_other_data_another_name():
    def made(word):
        return lookup({"a": (1, 2)}, lambda a: [[word, str(a)]], ["", ""], "c").data

    assert made("x") == made("x")
    assert tags(made("x"), "div")[0]["id"] != tags(made("y"), "div")[0]["id"]


QUESTION = ("Is `1 < 2`?", [("yes", True, "It is."), ("no", False, "Count again.")])


def test_a_self_check_has_feedback_on_every_answer():
    made = quiz([QUESTION, QUESTION]).data
    radios = tags(made, "input")
    assert [r["data-right"] for r in radios] == ["1", "0", "1", "0"]
    assert len({r["name"] for r in radios}) == 2  # each question's answers exclude one another, and no others
    assert "Right. It is." in made and "No. Count again." in made and "<code>1 &lt; 2</code>" in made
    assert not any("hidden" in has for has in tags(made, "p") if has.get("class") == "ldm-feedback")


def test_a_self_check_needs_one_right_answer_and_feedback():
    with pytest.raises(ValueError, match="exactly one right answer"):
        quiz([("?", [("a", True, "x"), ("b", True, "y")])])
    with pytest.raises(ValueError, match="feedback for each"):
        quiz([("?", [("a", True, "x"), ("b", False, " ")])])


def test_a_sentence_is_text_and_marks_code():
    said = say("*a* < b, by\n `sample`, **always**").data
    assert said == '<p class="ldm-said"><em>a</em> &lt; b, by <code>sample</code>, <strong>always</strong></p>'
