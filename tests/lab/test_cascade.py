"""The cascade's stage at the smallest size: equal conventions, what is kept, and what a row costs."""

import pytest
import torch
from conftest import SMOKE, empty_house
from PIL import Image

from ldm_course.data.loaders import load_data
from ldm_course.lab.records import load_record
from ldm_course.lab.reference import run_stages
from ldm_course.lab.stages import cascade
from ldm_course.measure.complexity import unet_flops


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    home = empty_house(tmp_path_factory)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LDM_HOME", str(home))
        assert run_stages(["cascade-emoji-64"], SMOKE, home / "out") == []
        yield home / "out"


def results(out):
    return load_record("cascade-emoji-64-smoke", out / "records")["results"]


def test_each_smaller_stage_sees_twice_the_images_and_a_row_says_what_it_cost(out):
    found = results(out)
    images = {stage["size"]: stage["images"] for stage in found["stages"]}
    assert images == {16: 4 * images[64], 32: 2 * images[64], 64: SMOKE.scale.cascade_images}
    base, *ups = found["stages"]
    assert base["network"]["in_channels"] == 3 and {up["network"]["in_channels"] for up in ups} == {7}
    first = found["rows"][0]
    assert first["options"] == {"steps": [4, 4, 4], "augmentation": 0.0} and first["evaluations"] == 12
    passes = [_flops(stage) for stage in found["stages"]]
    assert first["flops"] == 4 * sum(passes)
    real = [row for row in found["rows"] if row["options"].get("real")]
    assert [row["evaluations"] for row in real] == [8, 8] and real[0]["flops"] == 4 * sum(passes[1:])
    assert found["training"]["flops"] == sum(stage["training_flops"] for stage in found["stages"])
    with Image.open(out / "records" / "cascade-emoji-64-smoke.png") as picture:
        assert picture.height == len(found["rows_of_the_picture"]) * 66 - 2


def test_one_network_has_as_many_flops_in_the_same_batches(out):
    found, one = results(out), results(out)["one"]
    spent, batch = found["training"]["flops"], one["batch_size"]
    assert {stage["batch_size"] for stage in found["stages"]} == {batch} and one["size"] == 64
    assert one["network"] == found["stages"][0]["network"] and one["updates"] == one["images"] / batch
    each = one["training_flops"] / one["images"]
    assert spent - batch * each < one["training_flops"] <= spent
    assert one["flops"] == 4 * _flops(one) and one["quality"]["n_generated"] == SMOKE.eval_count


def _flops(stage):
    from ldm_course.checks import from_stored
    from ldm_course.config import UNetConfig

    return unet_flops(from_stored(UNetConfig, stage["network"]), stage["size"]).total


def test_what_was_judged_before_a_stop_is_kept(out, monkeypatch):
    before = results(out)
    (out / "records" / "cascade-emoji-64-smoke.json").unlink()
    monkeypatch.setattr(cascade.distances, "evaluate", lambda *args: pytest.fail("judged again"))
    assert run_stages(["cascade-emoji-64"], SMOKE, out) == []
    assert all(results(out)[part] == before[part] for part in ("rows", "one"))


def test_small_pictures_are_means_of_the_large_ones():
    large = load_data("emoji", 64, limit=4)
    small, middle, same = cascade.small_ones(large, cascade.SIDES)
    assert [p.size for p in (small, middle, same)] == [16, 32, 64] and same is large
    means = large.images.float().unflatten(2, (16, 4)).unflatten(4, (16, 4)).mean((3, 5))
    assert (small.images.float() - means).abs().max() <= 1  # rounded twice on the way
    assert torch.equal(small.labels, large.labels)
