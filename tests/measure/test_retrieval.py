"""What a CLIP knows, on vectors whose answers are known, ties included."""

import math

import pytest
import torch
import torch.nn.functional as F

from ldm_course.config import CLIPConfig, TextConfig
from ldm_course.data.loaders import load_data
from ldm_course.data.prompts import exchanged, parse
from ldm_course.measure import retrieval
from ldm_course.networks.clip import CLIP
from ldm_course.networks.text import SPECIAL, vocabulary, words_of
from ldm_course.training.recipes import seeded


def random(n, d=16, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_recall_counts_those_that_are_nearer():
    cosines = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.3, 0.4], [0.0, 0.6, 0.5]])  # first, third, second
    assert [retrieval.recall(cosines, k).tolist() for k in (1, 2, 3)] == [[1, 0, 0], [1, 0, 1], [1, 1, 1]]


def test_ties_are_drawn_by_lot():
    cosines = torch.tensor([[0.5, 0.5, 0.1, 0.1], [0.9, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    near = cosines + 1e-7 * torch.arange(16).view(4, 4)  # as near as sums in another order are
    for of in (cosines, near):
        assert retrieval.recall(of, 1) == pytest.approx([1 / 2, 0, 1 / 4, 1])
        assert retrieval.recall(of, 3) == pytest.approx([1, 2 / 3, 3 / 4, 1])


def test_retrieval_both_ways_and_what_chance_gives():
    n = 40
    texts = random(n)
    found = retrieval.retrieval(texts[torch.arange(n).roll(1)], texts)  # every picture is at the next one's text
    assert found["text of a picture"]["at_1"].right == found["picture of a text"]["at_1"].right == 0
    same = torch.cat([texts[:30], texts[:1].expand(10, -1)])  # eleven pictures alike: their texts do not tell them
    found = retrieval.retrieval(same, texts)
    assert found["text of a picture"]["at_1"].right == pytest.approx(30 / 40)
    one_way = found["picture of a text"]["at_1"]
    assert one_way.right == pytest.approx((29 + 1 / 11 + _among(texts, 1)) / 40, abs=1e-6)
    p = (one_way.right * 40 + 1) / 42
    assert one_way.error == pytest.approx(math.sqrt(p * (1 - p) / 40)) and one_way.n == 40
    assert found["chance"] == {"at_1": 1 / 40, "at_5": 5 / 40}
    with pytest.raises(ValueError, match="expected pairs"):
        retrieval.retrieval(texts[:3], texts)


def _among(texts, k):
    """Of the last ten texts, the recall of one of eleven pictures that all lie at the first text."""
    total = 0.0
    for text in texts[30:]:
        better = sum((text @ other).item() > (text @ texts[0]).item() for other in texts[1:30])
        total += min(max((k - better) / 11, 0), 1)
    return total


def test_random_pairs_are_found_as_often_as_chance_says():
    found = retrieval.retrieval(random(400, seed=1), random(400, seed=2))
    for way in ("text of a picture", "picture of a text"):
        for k in (1, 5):
            of = found[way][f"at_{k}"]
            assert abs(of.right - k / 400) < 4 * of.error


def test_classes_count_the_same_however_many_pictures_they_have():
    classes = torch.eye(3)
    pictures, labels = classes[[0] * 8 + [0, 1]], torch.tensor([0] * 8 + [1, 1])
    found = retrieval.classified(pictures, labels, classes)
    assert found.right == pytest.approx((1 + 1 / 2) / 2) and found.n == 10
    always = retrieval.classified(classes[[0] * 10], labels, classes)
    assert always.right == pytest.approx(1 / 2)  # of the two that occur, and not the share of the larger
    undecided = F.normalize(torch.ones(10, 3), dim=1)
    assert retrieval.classified(undecided, labels, classes).right == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: retrieval.recall(torch.eye(4), 0), "k=0; expected more than 0"),
        (lambda: retrieval.recall(torch.eye(7)[:4], 1), r"cosines: got .*\(4, 7\); expected float \(N, 4\)"),
        (lambda: retrieval.classified(torch.eye(3), torch.tensor([0, 1, 9]), torch.eye(3)), "labels go from 0 to 9"),
        (
            lambda: retrieval.classified(torch.eye(3), torch.tensor([0, 1]), torch.eye(3)),
            r"expected int64 \(3,\)",
        ),
    ],
)
def test_questions_without_an_answer_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_binding_counts_the_nearer_caption_and_halves_of_ties():
    a, b, c = torch.eye(3)
    pictures, right, wrong = torch.stack([a, a, a, a]), torch.stack([a, b, b, a]), torch.stack([b, a, c, a + 1e-7])
    assert retrieval.binding(pictures, right, wrong).right == (1 + 0 + 1 / 2 + 1 / 2) / 4


def test_exchanged_captions_have_the_same_words_in_another_order():
    prompt = parse("a small red star above a large blue square, both left of a ring, on a striped mint background")
    colours, things = exchanged(prompt, "colour"), exchanged(prompt, "size", "colour", "shape")
    ground = ", both left of a ring, on a striped mint background"
    assert str(colours) == f"a small blue star above a large red square{ground}"
    assert str(things) == f"a large blue square above a small red star{ground}"
    for other in (colours, things):
        assert sorted(words_of(str(other))) == sorted(words_of(str(prompt)))
    for text in ("a red star", "a red star above a blue star", "a red star above a red square"):
        assert exchanged(parse(text), "colour") is None


def towers(text: TextConfig, scenes) -> CLIP:
    words = vocabulary(scenes.captions)
    text = TextConfig(**(vars(text) | {"vocab_size": SPECIAL + len(words)}))
    return seeded(0, CLIP, CLIPConfig(text, words, 16, (8, 16), attention_head_dim=8, width=12)).eval()


def test_a_bag_of_words_tells_no_order_and_a_transformer_can():
    scenes = load_data("scenes", 16, "test", limit=96)
    whole = TextConfig(width=16, layers=1, heads=2, causal=True)
    bag, transformer = (towers(text, scenes) for text in (whole.as_bag(), whole))
    two = [prompt for prompt in map(parse, scenes.captions) if exchanged(prompt, "colour")]
    for model, tells in ((bag, False), (transformer, True)):
        one, other = (
            retrieval.of_texts(model, texts) for texts in (map(str, two), [str(exchanged(p, "colour")) for p in two])
        )
        assert ((one - other).norm(dim=1) > retrieval.TIE).all() == tells
    found = retrieval.of_scenes(bag, scenes)["binding"]
    assert set(found) == {"colours", "colours, new pairs", "things", "things, new pairs"}
    assert all(of.right == 1 / 2 for of in found.values())
    assert found["colours"].n == len(two) > found["colours, new pairs"].n > 5


def test_scenes_are_classified_by_the_one_word_that_differs(monkeypatch):
    """With texts that are the class itself, and pictures that are their own caption's, every class is read."""
    scenes = load_data("scenes", 16, "test", limit=64)
    model = towers(TextConfig(width=16, layers=1, heads=2, causal=True), scenes)
    captions = list(scenes.captions)
    monkeypatch.setattr(retrieval, "TEMPLATES", len(captions))
    monkeypatch.setattr(retrieval, "of_pictures", lambda model, images: _counts(captions))
    monkeypatch.setattr(retrieval, "of_texts", lambda model, texts: _counts(texts))
    found = retrieval.of_scenes(model, scenes)["classes"]
    alone = sum(len(parse(caption).things) == 1 for caption in captions)
    assert {name: (of.right, of.n) for name, of in found.items()} == dict.fromkeys(retrieval.CLASSES, (1.0, alone))


def _counts(texts):
    """Texts as counts of words."""
    words = vocabulary(load_data("scenes", 16, "test", limit=64).captions)
    return F.normalize(torch.tensor([[words_of(text).count(word) for word in words] for text in texts]).float(), dim=1)
