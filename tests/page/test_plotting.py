"""Colours, grids of pictures, captions and files (ldm_course.plotting)."""

import base64
import io
import re
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import ROOT
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from PIL import Image

from ldm_course.page import plotting

CSS = (ROOT / "assets" / "course.css").read_text()


def pictures(n, height=4, width=6, channels=3):
    values = torch.arange(n * channels * height * width) % 251
    return values.to(torch.uint8).reshape(n, channels, height, width)


def linear(colour):
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    """WCAG's contrast ratio."""
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


# How linear RGB looks without one kind of cone (Machado, Oliveira and Fernandes 2009, severity 1).
BLINDNESS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(rgb):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(0, 1)
    f = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_two_spaces_differ_for_every_eye(kind):
    pixel, latent = (lab(np.array(BLINDNESS[kind]) @ linear(c)) for c in (plotting.PIXEL, plotting.LATENT))
    assert np.linalg.norm(pixel - latent) > 40


@pytest.mark.parametrize("name", ["PIXEL", "LATENT", "RECORDED", "LIVE", "NEUTRAL"])
def test_colours_are_legible_as_text_on_the_card(name):
    assert contrast(getattr(plotting, name), plotting.CARD) >= 4.5


def test_the_books_colours_are_the_plots():
    light = dict(re.findall(r"--ldm-(\w+): (#\w{6});", CSS.split('[data-theme="dark"]')[0]))
    assert light["pixel"].upper() == plotting.PIXEL
    assert light["latent"].upper() == plotting.LATENT
    assert light["card"].upper() == plotting.CARD


def test_grid_image_puts_each_pixel_where_it_belongs():
    images = pictures(5)
    sheet = plotting.grid_image(images, columns=3, scale=2, gap=1)
    assert sheet.shape == (2 * 8 + 1, 3 * 12 + 2, 3) and sheet.dtype == np.uint8
    for i in range(5):
        y, x = i // 3 * 9, i % 3 * 13
        block = sheet[y : y + 8, x : x + 12]
        for shifted in (block[::2, ::2], block[1::2, 1::2]):
            np.testing.assert_array_equal(shifted, images[i].permute(1, 2, 0).numpy())
    assert (sheet[9:, 26:] == 255).all()  # the empty sixth place
    assert (sheet[8] == 255).all() and (sheet[:, 12] == 255).all()  # the gaps


def test_grid_image_of_one_channel_is_grey():
    sheet = plotting.grid_image(pictures(2, channels=1), gap=0)
    assert sheet.shape == (4, 12, 3)
    assert (sheet == sheet[..., :1]).all()


@pytest.mark.parametrize("gap", [0, 3])
def test_a_single_picture_has_no_gap_around_it(gap):
    images = pictures(1)
    np.testing.assert_array_equal(plotting.grid_image(images, gap=gap), images[0].permute(1, 2, 0).numpy())


def test_columns_default_to_eight_and_never_exceed_the_pictures():
    assert plotting.grid_image(pictures(20), gap=0).shape == (3 * 4, 8 * 6, 3)
    assert plotting.grid_image(pictures(2), columns=5, gap=0).shape == (4, 12, 3)


def rendered(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def test_grid_draws_each_pixel_at_the_scale():
    images = pictures(3, height=5, width=5)
    drawn = rendered(plotting.grid(images, columns=2, scale=8))
    assert drawn.shape[:2] == (2 * 46, 2 * 46)
    for i in range(3):
        y, x = i // 2 * 46, i % 2 * 46
        centres = drawn[y + 4 : y + 40 : 8, x + 4 : x + 40 : 8]
        np.testing.assert_array_equal(centres, images[i].permute(1, 2, 0).numpy())


def test_circles_are_drawn_around_what_they_name_in_widths_of_the_picture():
    images = torch.full((2, 3, 32, 32), 128, dtype=torch.uint8)
    drawn = rendered(plotting.grid(images, columns=2, scale=4, circles=[[(0.25, 0.5, 0.2)], []])).astype(int)
    inked = (abs(drawn[:128, :128] - 128).max(-1) > 40).nonzero()
    reach = np.hypot(inked[1] + 0.5 - 0.25 * 128, inked[0] + 0.5 - 0.5 * 128) / 128
    assert 0.17 < reach.min() and reach.max() < 0.23 and len(reach) > 200
    assert (drawn[:128, 134:262] == 128).all()  # none on the second picture
    with pytest.raises(ValueError, match="1 lists of circles for 2 pictures; give one for each"):
        plotting.grid(images, circles=[[]])


def test_captions_stay_inside_and_apart():
    words = ["short", "a much longer caption of many words", "mid one"]
    figure = plotting.grid(pictures(3, 16, 16), captions=words, title="Pixel space", colour=plotting.PIXEL)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [axes.texts[0].get_window_extent(renderer) for axes in figure.axes]
    for axes, box in zip(figure.axes, boxes):
        assert box.y1 <= axes.get_window_extent(renderer).y0  # under its picture
        assert box.y0 >= 0
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))
    title = figure.texts[0].get_window_extent(renderer)
    assert title.y0 >= figure.axes[0].get_window_extent(renderer).y1
    assert title.y1 <= figure.bbox.y1 + 1


def test_channels_are_grey_from_their_least_to_their_greatest_value():
    z = torch.zeros(2, 3, 2, 2)
    z[0, 1], z[1, 1] = torch.tensor([[-4.0, 0.0], [1.0, 2.0]]), 6.0
    z[1, 2, 0, 0] = 0.5
    images = plotting.channel_images(z, 4)
    assert images.shape == (2, 3, 3, 4, 4) and images.dtype == torch.uint8
    assert images[0, 1, 2, ::2, ::2].tolist() == [[0, 102], [128, 153]] and (images[1, 1] == 255).all()
    assert images[0, 1, 0, :2, 2:].eq(102).all()  # each value a square
    assert (images[:, 0] == 0).all() and images[1, 2, 0, 0, 0] == 255 and images[:, 2].sum() == 255 * 3 * 4


def test_grid_leaves_no_figure_open():
    before = plt.get_fignums()
    plotting.grid(pictures(2))
    assert plt.get_fignums() == before


def test_style_sets_the_card_and_the_spaces_colours():
    with plt.rc_context():
        plotting.style()
        assert plt.rcParams["figure.facecolor"] == plotting.CARD
        assert [c["color"] for c in plt.rcParams["axes.prop_cycle"]][:2] == [plotting.PIXEL, plotting.LATENT]


def test_caption_escapes_text_and_marks_code():
    made = plotting.caption_html("a < b, by `steps=<S>`", "recorded on 2025-03-01 & stamped")
    assert made == (
        '<p class="ldm-caption">a &lt; b, by <code>steps=&lt;S&gt;</code></p>'
        '<p class="ldm-stamp">recorded on 2025-03-01 &amp; stamped</p>'
    )


def test_show_prints_outside_a_notebook(capsys):
    figure, _ = plt.subplots()
    plotting.show(figure, "Blue lies below orange.", "recorded on 2025-03-01")
    assert capsys.readouterr().out == "Blue lies below orange.\n(recorded on 2025-03-01)\n"
    assert not plt.fignum_exists(figure.number)


def test_a_stored_picture_is_shown_as_it_is_with_its_caption(monkeypatch):
    outputs, picture = [], plotting.Picture(b"\xff\xd8\xff, a JPEG", 640, "Cats")
    monkeypatch.setattr(plotting, "_in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", outputs.append)
    plotting.show(picture, "Two cats.", "recorded on 2025-03-01")
    assert outputs[0] is picture
    assert outputs[1].data == plotting.caption_html("Two cats.", "recorded on 2025-03-01")


def test_show_refuses_a_figure_without_caption():
    with pytest.raises(ValueError, match="caption is empty"):
        plotting.show(plt.figure(), " ")


def on_the_page(monkeypatch, figure, **options):
    """The PNG that `show` leaves in a notebook, as the file's bytes, and as matplotlib itself would store it."""
    outputs = []
    monkeypatch.setattr(plotting, "_in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda data, raw=False: outputs.append(data))
    full = io.BytesIO()
    figure.savefig(full, format="png", bbox_inches="tight")
    plotting.show(figure, "What is to be seen.", **options)
    return base64.b64decode(outputs[0]["image/png"]), full.getvalue()


def as_array(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)


def test_a_plot_takes_few_bytes_on_the_page_and_looks_the_same(monkeypatch):
    with plt.rc_context(plotting.STYLE):
        figure, axes = plt.subplots()
        axes.plot(np.arange(50) ** 2)
    shown, full = on_the_page(monkeypatch, figure)
    assert Image.open(io.BytesIO(shown)).mode == "P" and len(shown) < len(full) / 2
    assert np.abs(as_array(shown) - as_array(full)).mean() < plotting.UNSEEN


def test_pictures_of_many_colours_keep_them_all_on_the_page(monkeypatch):
    noise = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    shown, full = on_the_page(monkeypatch, plotting.grid(noise, 2))
    np.testing.assert_array_equal(as_array(shown), as_array(full))
    few, _ = on_the_page(monkeypatch, plotting.grid(noise, 2), few_colours=True)
    assert Image.open(io.BytesIO(few)).mode == "P" and len(few) < 0.7 * len(shown)
    assert plotting.UNSEEN < np.abs(as_array(few) - as_array(full)).mean() < 30


def stored_as(kind):
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_stored_picture_keeps_its_bytes_and_its_words(kind):
    data = stored_as(kind)
    shown, how = plotting.Picture(data, width=300, alt="A red field")._repr_mimebundle_()
    assert {mime: base64.b64decode(text) for mime, text in shown.items()} == {f"image/{kind}": data}
    assert how == {f"image/{kind}": {"width": 300, "alt": "A red field"}}


def test_a_figure_becomes_a_jpeg_of_its_size():
    made = plotting.Picture.of(plotting.grid(pictures(4), 2, scale=4), "Four", 1.5)
    with Image.open(io.BytesIO(made.data)) as image:
        assert (made.kind, image.format, image.width) == ("image/jpeg", "JPEG", made.width)
    once = plotting.Picture.of(plotting.grid(pictures(4), 2, scale=4), "Four")
    assert abs(made.width - 1.5 * once.width) <= 1


def test_other_bytes_and_no_words_are_refused():
    with pytest.raises(ValueError, match="expected the bytes of a PNG or JPEG"):
        plotting.Picture(b"<svg></svg>", width=300, alt="A red field")
    with pytest.raises(ValueError, match="alt is empty"):
        plotting.Picture(stored_as("png"), width=300, alt=" ")


def test_png_holds_the_pixels(tmp_path):
    sheet = plotting.grid_image(pictures(3))
    plotting.save_png(tmp_path / "new" / "sheet.png", sheet)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "sheet.png")), sheet)
    plotting.save_png(tmp_path / "figure.png", plotting.grid(pictures(2)))
    assert Image.open(tmp_path / "figure.png").format == "PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figure.png", "new"]


@pytest.mark.parametrize(
    "images, said",
    [
        (torch.zeros(2, 3, 4, 4), "float32.*to_uint8"),
        (np.zeros((2, 3, 4, 4), np.uint8), "ndarray"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), r"\(3, 4, 4\)"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), r"\(2, 4, 4, 3\)"),
        (torch.zeros(0, 3, 4, 4, dtype=torch.uint8), "N >= 1"),
    ],
)
def test_other_pictures_are_refused(images, said):
    for draw in (plotting.grid_image, plotting.grid):
        with pytest.raises(ValueError, match=said):
            draw(images)


def test_other_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="columns=0"):
        plotting.grid_image(pictures(2), columns=0)
    with pytest.raises(ValueError, match="scale=0"):
        plotting.grid_image(pictures(2), scale=0)
    with pytest.raises(ValueError, match="1 captions for 2"):
        plotting.grid(pictures(2), captions=["one"])
    with pytest.raises(ValueError, match="see grid_image"):
        plotting.save_png(tmp_path / "x.png", torch.zeros(3, 4, 4))
    assert not list(tmp_path.iterdir())


def test_rows_stand_under_their_names_and_columns_under_theirs():
    figure = plotting.named_rows({"one": pictures(3), "latent, too": pictures(3)}, ["a", "b", "c"], scale=2)
    (axes,) = figure.axes
    assert axes.images[0].get_array().shape == (2 * 4 * 2 + 4, 3 * 6 * 2 + 2 * 4, 3)
    assert [text.get_text() for text in axes.texts] == ["one", "latent, too", "a", "b", "c"]
    assert [text.get_color() for text in axes.texts[:2]] == [plotting.NEUTRAL, plotting.LATENT]
    for rows, above in (({}, []), ({"one": pictures(3), "another": pictures(2)}, []), ({"one": pictures(3)}, ["a"])):
        with pytest.raises(ValueError, match="expected one length"):
            plotting.named_rows(rows, above)


def test_subplots_are_in_the_course_s_look_and_closed():
    with plt.rc_context({"axes.facecolor": "red"}):
        figure, axes = plotting.subplots(1, 2, figsize=(5, 2), sharey=True)
    assert figure.get_facecolor() == axes[1].get_facecolor() == to_rgba(plotting.CARD)
    assert not axes[0].spines["top"].get_visible() and tuple(figure.get_size_inches()) == (5, 2)
    assert figure.number not in plt.get_fignums()


def test_ticks_are_at_the_values_that_are_given_and_nowhere_else():
    figure, axes = plotting.subplots()
    axes.set(xscale="log", yscale="log", xlim=(1, 2000), ylim=(0.01, 10))
    plotting.ticks(axes, [2, 64, 1024], [0.05, 1], rotation=45)
    figure.canvas.draw()
    shown = {name: [t.get_text() for t in getattr(axes, f"get_{name}ticklabels")()] for name in "xy"}
    assert shown == {"x": ["2", "64", "1024"], "y": ["0.05", "1"]}
    assert {t.get_rotation() for t in axes.get_xticklabels()} == {45}
    assert not len(axes.get_xticks(minor=True)) and not len(axes.get_yticks(minor=True))
    plotting.ticks(axes, y=[3])  # and leaves the other axis alone
    assert list(axes.get_xticks()) == [2, 64, 1024] and list(axes.get_yticks()) == [3]


def test_pixels_are_orange_and_every_latent_is_blue():
    assert plotting.look_at(1) == {"label": "pixels", "color": plotting.PIXEL}
    assert [plotting.look_at(f) for f in (2, 8)] == [
        {"label": label, "color": plotting.LATENT} for label in ("f = 2", "f = 8")
    ]
