"""Chapter 9's one table: a row for each method that is recorded, its numbers where they belong, a line on the rest."""

import pytest

from ldm_course.lab import whats_next
from ldm_course.lab.records import make_record, save_record
from ldm_course.lab.reference import STAGES


def judged(kd_e, n=1000):
    return {"kd_e": kd_e, "kd_e_error": 0.004, "fd_e": 1000 * kd_e, "fd_e_error": 3.0, "n_generated": n}


def taken(**more):
    return {"parameters": 1_810_000, "training_flops": 4e12, **more}


def own(space, size=32, finished=True):
    data = {"name": "cifar10" if size == 32 else "emoji", "size": size}
    points = [{"quality": judged(0.9)}, {"quality": judged(0.1)}]
    about = {"space": space, "parameters": 1_800_000, "sampler": "ddim, 50 steps", "training": {"flops": 4e14}}
    return {"data": data, "points": points, "finished": finished, **about}


def rows_in_few_steps():
    rows = []
    for space in ("pixel", "latent"):
        for steps in (1, 10, 50):
            rows += [{"method": "teacher", "sampler": s, "steps": steps, "space": space} for s in ("ddim", "dpmpp")]
        for method in ("distilled", "without a teacher"):
            rows += [{"method": method, "sampler": "multistep", "steps": n, "space": space} for n in (1, 4)]
    return [row | taken(seconds_picture=0.01 * row["steps"], quality=judged(0.1)) for row in rows]


EMOJI = {"data": {"name": "emoji", "size": 64}}
RESULTS = {
    "denoiser-cifar10-32-pixel": own("pixel", finished=False),
    "denoiser-cifar10-32-latent": own("latent"),
    "denoiser-emoji-64-pixel": own("pixel", 64),
    "latents-emoji-64": EMOJI
    | {
        "finished": True,
        "steps": 25,
        "rows": [
            {"method": name, "denoiser": {"parameters": 900_000}, "training_flops": 5e12, "quality": judged(kd)}
            for name, kd in (("f8", 0.3), ("standard", 0.2), ("codebook", 0.4), ("equivariant", 0.1))
        ],
    },
    "cascade-emoji-64": EMOJI
    | {
        "finished": True,
        "parameters": 5_400_000,
        "training": {"flops": 6e14},
        "rows": [
            {"options": {"steps": steps} | more, "evaluations": sum(steps), "quality": judged(kd)}
            for steps, kd, more in (
                ([50, 25, 25], 0.08, {}),
                ([5, 5, 5], 0.5, {}),
                ([50, 10, 10], 0.09, {}),
                ([5, 5, 5], 0.01, {"real": True}),
            )
        ],
    },
    "few-steps-cifar10-32": {"finished": True, "data": {"name": "cifar10", "size": 32}, "rows": rows_in_few_steps()},
    "video-scenes-64": {
        "finished": True,
        "data": {"name": "scenes in motion"},
        "rows": [
            {"method": "real clips", "size": 64, "space": "pixel", "quality": {"frames": judged(0.0, 125)}},
            {
                "method": "video from scratch",
                "size": 64,
                "space": "latent",
                **taken(evaluations=25),
                "quality": {"frames": judged(0.3, 125), "changes": judged(0.7, 125)},
            },
        ],
    },
    "flow-cifar10-32": {
        "finished": True,
        "data": {"name": "cifar10", "size": 32},
        "rows": [
            {"method": "latent DiT/2", "space": "latent", "sampler": s, "evaluations": n, **taken(quality=judged(kd))}
            for s, n, kd in (("ddim", 20, 0.4), ("ddim", 50, 0.3), ("heun", 49, 0.2))
        ],
    },
}


@pytest.fixture
def keep(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_HOME", str(tmp_path))

    def store(stage, results):
        made = make_record(f"{stage}-hours", "reference", {"stage": stage, **results}, command="x", seconds=1)
        save_record(made, tmp_path / "records")

    return store


def test_every_stage_has_its_rows_and_every_number_its_column(keep):
    for stage, results in RESULTS.items():
        keep(stage, results)
    sampled = [{"method": m, "steps": n, "seconds_picture": n / 1000} for m, n in (("ddpm", 50), ("ddim", 50))]
    keep("sampling-cifar10-32-latent", {"rows": sampled[1:]})
    rows, used, missing = whats_next.rows()
    head, body = whats_next.table(rows)
    assert all(len(cells) == len(head) for cells in body) and len(used) == len(RESULTS)
    assert missing == ["denoiser-emoji-64-latent"]
    assert whats_next.left_out(missing) == "Not recorded yet, and left out: denoiser-emoji-64-latent."
    assert whats_next.left_out([]) == ""
    latent = ["own, cifar10 at 32", "U-Net, DDIM", "latent", "1.8 M", "400 TFLOP", "50", "50 ms"]
    assert body[1] == [*latent, "0.100 ± 0.004", "100 ± 3", "1,000"]
    assert body[0][6] == "–"  # nobody has timed the one in pixels
    by_section = {}
    for row in rows:
        by_section.setdefault(row.section, []).append((row.method, row.space, row.evaluations, row.quality["kd_e"]))
    assert by_section["9.1, emoji at 64"] == [
        ("autoencoder: standard", "latent", 25, 0.2),
        ("autoencoder: equivariant", "latent", 25, 0.1),
        ("autoencoder: codebook", "latent", 25, 0.4),
    ]
    assert by_section["9.2, emoji at 64"] == [
        ("cascade, 50 + 25 + 25 steps", "pixel", 100, 0.08),
        ("cascade, 5 + 5 + 5 steps", "pixel", 15, 0.5),
    ]
    in_pixels = [(m, n) for m, space, n, _ in by_section["9.3, cifar10 at 32"] if space == "pixel"]
    assert in_pixels == [("teacher", 1), ("teacher", 50), ("distilled", 1), ("distilled", 4), ("without a teacher", 1)]
    assert by_section["9.4, frames at 64"] == [("video from scratch", "latent", 25, 0.3)]
    assert by_section["9.5, cifar10 at 32"] == [("DiT/2", "latent", 50, 0.3)]


def test_what_has_not_come_to_its_end_is_left_out_but_for_denoisers(keep):
    for stage, results in RESULTS.items():
        keep(stage, results | {"finished": False})
    rows, used, missing = whats_next.rows()
    assert {row.section.split(",")[0] for row in rows} == {"own"} and len(used) == 3
    assert missing[1:] == ["latents-emoji-64", "cascade-emoji-64", *list(whats_next.STAGES)[6:]]


def test_the_table_is_of_stages_that_there_are():
    assert set(whats_next.STAGES) <= set(STAGES)
