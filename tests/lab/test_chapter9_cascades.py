"""Chapter 9's tables and figures of a cascade, from a record made up here."""

from ldm_course.lab import cascades, records
from ldm_course.lab.figures import stored_rows


def quality(kd_e, recall=0.25, precision=0.5):
    near = {"recall": recall, "precision": precision, "recall_real": 0.8, "precision_real": 0.9}
    return {"kd_e": kd_e, "kd_e_error": 0.01, "fd_e": 1000 * kd_e, "fd_e_error": 5.0, "n_generated": 9} | near


def row(kd_e, augmentation=0.0, steps=(50, 25, 25), **more):
    options = {"steps": list(steps), "augmentation": augmentation} | more
    return {"options": options, "flops": 1e9, "evaluations": sum(steps), "quality": quality(kd_e)}


def record(*rows):
    stages = [
        {"size": side, "parameters": 10**6, "images": 64 * 100 // side, "epochs": 1.0, "training_flops": flops}
        | {"batch_size": 64}
        for side, flops in ((16, 1e12), (32, 2e12), (64, 5e12))
    ]
    one = stages[-1] | {"training_flops": 7.9e12, "steps": 50, "flops": 2e9, "quality": quality(0.6, 0.125, 0.0)}
    return {"results": {"stages": stages, "training": {"flops": 8e12}, "rows": list(rows), "one": one}}


HELPS = record(row(0.5), row(0.3, 0.1), row(0.4, 0.2), row(0.35, 0.1, (5, 5, 5)), row(0.1, 0.1, real=True))


def test_a_row_for_each_and_a_cell_under_each_title():
    for head, body in (cascades.stages(HELPS), cascades.rows(HELPS)):
        assert body and {len(cells) for cells in body} == {len(head)}
    assert [cells[-1] for cells in cascades.stages(HELPS)[1]] == ["12%", "25%", "62%", "99%"]
    assert [cells[0] for cells in cascades.rows(HELPS)[1]][-3:] == [
        "5 + 5 + 5 from noise",
        "25 + 25 from real pictures of 16 × 16",
        "50 of one network",
    ]
    assert cascades.rows(HELPS)[1][-1][2:] == ["2 GFLOP", "0.600 ± 0.010", "600 ± 5", "12.5%"]


def test_sentences_depend_on_the_numbers():
    said = cascades.augmentations(HELPS)
    assert said.endswith("drawing, 0.1 comes nearest (KD-E 0.300); resolvably farther: 0, 0.2.")
    close = record(row(0.3), row(0.31, 0.1), row(0.5, 0.2))
    said = cascades.augmentations(close)
    assert said.endswith("0 comes nearest (KD-E 0.300); not told apart from it: 0.1; resolvably farther: 0.2.")
    assert cascades.where_it_is_lost(HELPS).endswith("33% of it is left, so the base is the main limit here.")
    more = record(row(0.1), row(0.35, 0.1), row(0.35, real=True), row(0.2, 0.1, real=True))
    assert "from 0.350 to 0.200: 57% of it is left, so the larger stages are" in cascades.where_it_is_lost(more)
    assert cascades.best(HELPS)["options"]["augmentation"] == 0.1 and len(cascades.drawn(HELPS)) == 4


def test_a_bar_ends_at_the_sum_of_its_parts():
    bills = {"cascade": {"a": 1e9, "b": 2e9, "c": 4e9}, "one latent model": {"steps": 1e9, "decoder": 5e8}}
    axes = cascades.bars(bills).axes[0]
    assert max(bar.get_x() + bar.get_width() for bar in axes.patches[:3]) == 7
    assert [label.get_text() for label in axes.get_yticklabels()] == list(bills)
    assert any(text.get_text() == " 1.5 GFLOP" for text in axes.texts)


def test_training_is_on_one_axis():
    points = [{"flops": 1e12, "quality": quality(0.9)}, {"flops": 1e13, "quality": quality(0.4)}]
    longer = {"results": {"points": points, "training": {"batch_size": 256}}}
    standard = {"method": "standard", "training_flops": 3e12, "quality": quality(0.2)}
    axes = cascades.by_training(HELPS, longer, {"results": {"rows": [standard]}}).axes[0]
    lines = {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in axes.containers}
    assert lines == {
        "one network, batches of 256": [[1e12, 0.9], [1e13, 0.4]],
        "one network, batches of 64": [[7.9e12, 0.6]],
        "cascade, batches of 64": [[8e12, 0.3]],
        "latents, a smaller network": [[3e12, 0.2]],
    }
    assert len(cascades.by_training(HELPS, longer).axes[0].containers) == 3


def test_the_one_network_is_said_beside_the_cascade():
    assert cascades.beside_one(HELPS).endswith("the cascade has a KD-E of 0.300 and one pixel network 0.600.")
    said = cascades.coverage(HELPS)
    assert "is 25.0% for the cascade and 12.5% for the one network (80% for other real" in said
    assert "is 50.0% for the cascade and 0.0% for the one network (90% for other real pictures)." in said


def test_the_sheet_has_each_stage_under_its_name_from_the_stored_picture():
    stored = records.load_record("cascade-emoji-64-hours")
    figure, rows = cascades.sheet(stored), stored_rows(stored)
    assert [text.get_text().replace("\n", " ") for text in figure.axes[0].texts] == list(rows)
    shown = figure.axes[0].images[0].get_array()
    for i, row in enumerate(rows.values()):
        first = row[0].permute(1, 2, 0).numpy()
        assert (shown[i * 132 : i * 132 + 128 : 2, 0:128:2] == first).all()  # 128 screen pixels a picture
    small, *_ = rows.values()  # each pixel of 16 is a block of 4
    assert (small[..., ::4, ::4].repeat_interleave(4, -2).repeat_interleave(4, -1) == small).all()
