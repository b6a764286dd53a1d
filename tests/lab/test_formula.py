"""Chapter 8's tables and figures, from records made up here and from a network of a few thousand weights."""

import pytest
import torch

from ldm_course.config import AutoencoderConfig, TextConfig, TextUNetConfig, UNetConfig
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.lab import formula
from ldm_course.lab.records import recorded
from ldm_course.lab.stages.prompts import SCALES, STEPS, USUAL
from ldm_course.measure.complexity import count_parameters
from ldm_course.measure.retrieval import CLASSES
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.text import SPECIAL, TextUNet, vocabulary
from ldm_course.spaces import LatentSpace
from ldm_course.training.recipes import seeded

WORDS = vocabulary(["a red star"])
NETWORK = TextUNetConfig(
    UNetConfig(
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        attention=(False, True),
        attention_head_dim=16,
        norm_num_groups=4,
        cross_attention_dim=16,
    ),
    TextConfig(SPECIAL + len(WORDS), length=8, width=16, heads=2, layers=1),
    WORDS,
)


def share(right, n=100):
    return {"right": right, "error": 0.03, "n": n}


def row(kind, right, **sampler):
    quality = {"kd_e": 1 - right, "kd_e_error": 0.01}
    return {
        "kind": kind,
        "sampler": USUAL | sampler,
        "obeyed": {"count": share(1.0), "everything": share(right)},
        "quality": quality,
        "diversity": {"ratio": 0.5, "error": 0.02},
    }


RECORD = {
    "results": {
        "rows": [row(kind, 0.1 * s, guidance_scale=s) for kind in ("known", "new") for s in SCALES]
        + [row("known", 0.5, method=m, steps=s) for m in ("ddim", "dpmpp") for s in STEPS if s != USUAL["steps"]],
        "emoji": {"known": {"count": 9, "name": share(0.9, 9)}, "new": {"count": 0}},
    }
}


def test_the_parts_add_up_to_one_picture():
    first = seeded(0, Autoencoder, AutoencoderConfig(block_out_channels=(16, 16), norm_num_groups=4)).eval()
    model = seeded(1, TextUNet, NETWORK).eval()
    d = Denoiser(model, LatentSpace(16, first), make_schedule("cosine"), "v")
    head, rows = formula.parts_of(d, 5)
    assert [r[0] for r in rows] == ["text encoder", "U-Net", "sampler", "decoder"]
    assert all(len(r) == len(head) for r in rows)
    assert [r[3] for r in rows] == ["2", "10", "5", "1"]  # the text and the empty one; twice a step; each step; once
    assert sum(float(r[5].rstrip("%")) for r in rows if r[5] != "–") == pytest.approx(100, abs=0.2)
    assert rows[1][2] == formula.si(count_parameters(model.unet))
    assert formula.parts_of(d, 5, guided=False)[1][1][3] == "5"


def test_marks_have_a_row_each_and_the_floor_at_their_end():
    def quality(fd_e):
        numbers = {"fd_e": fd_e, "fd_e_error": 9.6, "fd_e_floor": 130.4, "kd_e": 0.25, "kd_e_error": 0.01}
        return numbers | {"kd_e_floor": 0.0004}

    points = [{"images": n, "quality": {"emoji": quality(5e7 / n), "scenes": quality(6e7 / n)}} for n in (1e5, 2e5)]
    points = [point | {"images": int(point["images"])} for point in points]
    head, body = formula.marks({"results": {"points": points}})
    assert head == ["images", "emoji: FD-E", "emoji: KD-E", "scenes: FD-E", "scenes: KD-E"]
    assert body[0] == ["100,000", "500 ± 10", "0.250 ± 0.010", "600 ± 10", "0.250 ± 0.010"]
    assert body[1][3] == "300 ± 10" and body[2] == ["as many real ones", "130", "0.000", "130", "0.000"]


def test_obedience_is_read_at_the_usual_sampler_plain_and_guided():
    reader = {"results": {"controls": {"another prompt": {"everything": share(0.02, 9)}}}}
    head, (chance, *rows) = formula.obedience(RECORD, reader)
    assert head == ["", "pictures", "count", "everything"]
    assert chance == ["chance", "9", "–", "2\u00a0±\u00a03"]
    assert rows[0] == ["known, s = 1", "100", "100\u00a0±\u00a03", "10\u00a0±\u00a03"]
    assert [r[0] for r in rows] == ["known, s = 1", "known, s = 3", "new, s = 1", "new, s = 3"]
    assert formula.named(RECORD) == (["", "pictures", "the one asked for"], [["known", "9", "90\u00a0±\u00a03"]])


def test_conditions_stand_between_chance_and_the_scenes_themselves():
    def of(right):
        return {"everything": share(right)}

    rows = [
        {"condition": name, "kind": kind, "guidance": s, "obeyed": of(right + s / 100)}
        for name, right in {"frozen CLIP": 0.5, "label": 0.2}.items()
        for kind in ("known", "new")
        for s in (1.0, 3.0)
    ]
    limits = {
        name: {kind: of(right) for kind in ("known", "new")} for name, right in {"most": 0.99, "chance": 0.01}.items()
    }
    _, body = formula.conditions({"results": {"rows": rows, **limits}})
    assert [r[0] for r in body] == [
        "chance, known",
        "chance, new",
        "frozen CLIP, known",
        "frozen CLIP, new",
        "label, known",
        "label, new",
        "the scenes themselves, known",
        "the scenes themselves, new",
    ]
    assert [r[2] for r in body] == [f"{n}\u00a0±\u00a03" for n in (1, 1, 53, 53, 23, 23, 99, 99)]  # the guided ones


def test_sentences_say_what_the_tables_and_curves_show():
    asked = {"count": 0.9, "shape": 0.2, "colour": 0.5, "everything": 0.1}

    def of(kind, scale, right, kd_e, spread, method="dpmpp", steps=20):
        shares = {name: share(value) for name, value in (asked | {"everything": right}).items()}
        made = row(kind, right, guidance_scale=scale, method=method, steps=steps)
        quality = {"kd_e_error": 0.01, "n_generated": 250}
        return made | {"obeyed": shares, "quality": quality | {"kd_e": kd_e}, "diversity": {"ratio": spread}}

    rows = [of("known", 1.0, 0.1, 0.2, 0.9), of("known", 3.0, 0.4, 0.3, 0.6), of("known", 7.5, 0.3, 0.5, 0.4)]
    rows += [of("new", 3.0, 0.2, 0.3, 0.6)]
    rows += [of("known", 3.0, right, kd_e, 0.6, "ddim", n) for n, right, kd_e in ((5, 0.1, 0.9), (100, 0.4, 0.3))]
    rows += [of("known", 3.0, right, kd_e, 0.6, "dpmpp", n) for n, right, kd_e in ((5, 0.4, 0.9), (100, 0.4, 0.31))]
    tones = {"known": {"count": 9, "name": share(0.9)}, "new": {"count": 9, "name": share(0.5), "tone": share(0.8)}}
    record = {"results": {"rows": rows, "emoji": tones}}
    chance = {"results": {"controls": {"another prompt": {name: share(0.05) for name in asked}}}}
    said = formula.what_is_obeyed(record, chance)
    assert "40% of the guided" in said and "guidance 10%" in said and "20% (**resolvably less**)" in said
    assert "is count (90%, by chance 5%), least shapes (20%, by chance 5%)" in said
    said = formula.what_guidance_does(record)
    assert "s = 3 (40%); the" in said and "at s = 1 (0.200 ± 0.010). From" in said and "from 0.90 to 0.40 times" in said
    close = [of("known", 1.0, 0.39, 0.31, 0.9), of("known", 3.0, 0.4, 0.3, 0.6), of("known", 7.5, 0.3, 0.5, 0.4)]
    said = formula.what_guidance_does({"results": {"rows": close}})
    assert "s = 3 (40%; not told apart from s = 1); the" in said
    assert "at s = 3 (0.300 ± 0.010; not told apart from s = 1). From" in said
    said = formula.what_steps_give(record)
    assert "DDIM from 100 steps on for obedience and from 100 for" in said
    assert "DPM-Solver++ from 5 steps on for obedience and from 20 for" in said
    assert said.endswith("Where even 5 steps are not worse, the pictures are too few to tell.")
    resolved = [row for row in rows if row["sampler"]["method"] == "ddim" or row["sampler"]["steps"] != 5]
    said = formula.what_steps_give({"results": {"rows": resolved + [of("known", 3.0, 0.1, 0.9, 0.6, steps=5)]}})
    assert "DPM-Solver++ from 20 steps on for obedience and from 20 for" in said and "too few" not in said
    said = formula.what_is_named(record)
    assert "trained on, 90%" in said and "50% (**resolvably less**)" in said and "right in 80%" in said

    def told(name, right, colour):
        shares = {"shape and colour": share(right), "colour": share(colour)}
        return {"condition": name, "kind": "known", "guidance": 3.0, "obeyed": shares}

    limits = {name: {"known": {"shape and colour": share(v)}} for name, v in {"chance": 0.01, "most": 0.99}.items()}
    rows = [told("frozen CLIP", 0.3, 0.5), told("learnt encoder", 0.28, 0.5), told("bag of words", 0.1, 0.8)]
    said = formula.what_conditions_give(
        {"results": {"rows": rows, "conditions": {"label": {"images": 5000}}, **limits}}
    )
    assert "After 5,000 pictures" in said and "frozen CLIP 30%, learnt encoder 28%, bag of words 10% (chance 1%" in said
    assert "with the network: **not told apart**." in said
    assert said.endswith("80% with the bag of words, in 50% with CLIP: **resolvably more**.")


def test_what_a_clip_knows_stands_beside_chance():
    def exam(right):
        ways = {name: {"at_1": share(right)} for name in ("text of a picture", "picture of a text")}
        found = {"retrieval": ways | {"chance": {"at_1": 0.01}}}
        classes = {name: share(right) for name in CLASSES}
        scenes = found | {"classes": classes, "binding": {"colours": share(right), "things": share(right)}}
        return {"scenes": scenes, "drawings in new tones": found, "new drawings": found}

    record = {"results": {"encoders": {"transformer": exam(0.9), "bag of words": exam(0.4)}}}
    head, body = formula.clip(record)
    assert head == ["", "transformer", "bag of words", "chance"]
    chances = {r[0].split(":")[-1].strip(): r[3] for r in body}
    assert chances["its shape"] == "12.5" and chances["its tint"] == "16.7"  # of 8 and of 6
    assert body[0] == ["scenes: which of 100 belongs to the text", "90\u00a0±\u00a03", "40\u00a0±\u00a03", "1.0"]
    assert body[-1][3] == "50.0"


def test_the_channels_of_a_latent_lie_beside_the_picture_each_on_its_own_scale():
    first = seeded(0, Autoencoder, AutoencoderConfig(block_out_channels=(16, 16, 16), norm_num_groups=4)).eval()
    picture = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    axes = formula.channels(first, picture, shown=32).axes
    images = [a.images[0].get_array() for a in axes if a.images]
    assert len(images) == 2 + first.config.latent_channels
    assert all(image.shape == (32, 32, 3) for image in images)
    area = picture[0].float().unflatten(1, (32, 2)).unflatten(3, (32, 2)).mean((2, 4)).permute(1, 2, 0).round()
    assert (torch.from_numpy(images[0].copy()).float() - area).abs().max() <= 1
    for image in images[2:]:
        assert image.min() == 0 and image.max() == 255 and (image[..., 0] == image[..., 1]).all()


def test_the_published_systems_have_one_cell_each():
    head, body = formula.systems()
    assert len(body) == 10 and all(len(r) == len(head) == 4 for r in body)
    cells = {r[0]: r[1:] for r in body}
    assert cells["fewer values"] == ["48x", "48x", "12x"] and cells["is denoised as"][0] == "4 × 64 × 64"


def test_the_recorded_step_of_stable_diffusion_is_read_by_part():
    head, body = formula.stable_diffusion_step(recorded("stable-diffusion-step"))
    assert all(len(r) == len(head) for r in body)
    assert [r[1] for r in body] == ["123 M", "860 M", "860 M", "83.7 M", "83.7 M"]
    assert body[1][2] == "803 GFLOP" and body[2][5] == "–" and float(body[3][5]) < 1e-5


def test_curves_hold_each_row_once():
    panels = formula.guidance(RECORD).axes
    lines = [container.lines[0] for container in panels[0].containers]
    assert [list(line.get_xdata()) for line in lines] == 2 * [list(SCALES)]
    assert list(lines[0].get_ydata()) == pytest.approx([0.1 * s for s in SCALES])
    by_steps = formula.steps(RECORD).axes
    drawn = {c.get_label(): list(c.lines[0].get_xdata()) for c in by_steps[1].containers}
    assert drawn["known, DDIM"] == [5, 10, 50, 100] and drawn["known, DPM-Solver++"] == [5, 10, 20, 50, 100]


def test_where_a_word_was_read_the_picture_is_bright():
    picture = torch.full((3, 16, 16), 200, dtype=torch.uint8)
    maps = torch.zeros(2, 4, 4)
    maps[1, 0, 0] = 1
    figure = formula.word_maps(picture, ["start", "star"], maps)
    images = [axes.images[0].get_array() for axes in figure.axes]
    assert len(images) == 3 and (images[0] == 200).all()
    assert images[2][0, 0].min() == 200 and images[2][15, 15].max() == 50
