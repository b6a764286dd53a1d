"""Chapter 9's one table: a row for each method that is recorded, its numbers where they belong, a line on the rest."""

import json
from dataclasses import asdict

import pytest
import torch
from conftest import SMOKE

from ldm_course.config import AutoencoderConfig, DiTConfig, UNetConfig
from ldm_course.lab import whats_next
from ldm_course.lab.records import make_record, save_record
from ldm_course.lab.reference import STAGES
from ldm_course.lab.stages import calls
from ldm_course.lab.stages.base import Run

FIRST = asdict(AutoencoderConfig(block_out_channels=(8, 8, 8)))  # f = 4, four channels
SMALL = UNetConfig(block_out_channels=(16, 16), attention=(False, True), attention_head_dim=8)


def unet(channels=3, **more):
    return asdict(SMALL.for_channels(channels)) | more


def judged(kd_e, n=1000):
    return {"kd_e": kd_e, "kd_e_error": 0.004, "fd_e": 1000 * kd_e, "fd_e_error": 3.0, "n_generated": n}


def taken(**more):
    return {"parameters": 1_810_000, "training_flops": 4e12, **more}


def own(space, size=32, finished=True):
    data = {"name": "cifar10" if size == 32 else "emoji", "size": size}
    points = [{"quality": judged(0.9)}, {"quality": judged(0.1)}]
    about = {"space": space, "parameters": 1_800_000, "sampler": "ddim, 50 steps", "training": {"flops": 4e14}}
    latent = space == "latent"
    about |= {"network": unet(4 if latent else 3), "shape": [4, size // 4, size // 4] if latent else [3, size, size]}
    about["first_stage"] = {"record": "first-stage-f4-hours"} if latent else None
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
            | {"autoencoder": {"network": FIRST}, "shape": [4, 16, 16]}
            for name, kd in (("f8", 0.3), ("standard", 0.2), ("codebook", 0.4), ("equivariant", 0.1))
        ],
        "network": unet(),
    },
    "cascade-emoji-64": EMOJI
    | {
        "finished": True,
        "parameters": 5_400_000,
        "training": {"flops": 6e14},
        "stages": [{"size": n, "network": unet(in_channels=3 if n == 16 else 7)} for n in (16, 32, 64)],
        "one": {"parameters": 1_800_000, "training_flops": 6e14, "steps": 50, "quality": judged(0.6)}
        | {"size": 64, "network": unet()},
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
    "few-steps-cifar10-32": {
        "finished": True,
        "data": {"name": "cifar10", "size": 32},
        "rows": rows_in_few_steps(),
        "teachers": {
            space: {"weights": f"denoiser-cifar10-32-{space}-hours", "network": unet(c), "shape": [c, side, side]}
            for space, c, side in (("pixel", 3, 32), ("latent", 4, 8))
        },
    },
    "video-scenes-64": {
        "finished": True,
        "data": {"name": "scenes in motion", "frames": 4},
        "network": unet(),
        "rows": [
            {"method": "real clips", "size": 64, "space": "pixel", "quality": {"frames": judged(0.0, 125)}},
            {
                "method": "video from scratch",
                "size": 64,
                "space": "latent",
                "network": "clips",
                **taken(evaluations=25),
                "quality": {"frames": judged(0.3, 125), "changes": judged(0.7, 125)},
            },
        ],
    },
    "flow-cifar10-32": {
        "finished": True,
        "data": {"name": "cifar10", "size": 32},
        "first_stage": {"record": "first-stage-f4-hours"},
        "methods": {
            "latent DiT/2": {"network": asdict(DiTConfig(in_channels=4, out_channels=4, width=32, layers=2, heads=2))}
        },
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

    store("first-stage-f4", {"network": FIRST})
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
        ("one network for the largest side", "pixel", 50, 0.6),
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


def test_where_drawing_was_not_timed_a_measured_call_is_counted_as_often_as_it_is_made(keep, tmp_path):
    for stage in RESULTS:
        keep(stage, RESULTS[stage])
    rows, *_ = whats_next.rows()
    assert whats_next.timed(rows) == (rows, [])
    found = calls.calls(Run(calls.CALLS, SMOKE, tmp_path, 1.0, torch.device("cpu")))
    seconds = {calls.Call(**call["of"]): call["seconds"] for call in found["calls"]}
    assert min(seconds.values()) > 0 and {call.kind for call in seconds} == set(calls.NETWORKS)
    keep(calls.CALLS, found)
    after, (record,) = whats_next.timed(rows)
    assert record["results"]["batch"] == SMOKE.eval_count
    by_name = {row.method: (row, dict(zip([c.kind for c in row.calls], row.calls.values()))) for row in after}
    assert calls.Call.of(unet(), 32) == calls.Call.of({k: v for k, v in unet().items() if v is not None}, 32)
    video, times = by_name["video from scratch"]
    assert times == {"clips": 25 / 4, "decoder": 1}  # of a frame, a quarter of the clip's
    (clip, decoder) = video.calls
    assert json.loads(clip.config)["unet"]["in_channels"] == 4 and clip.side == 16 and decoder.side == 64
    assert video.seconds == 25 / 4 * seconds[clip] + seconds[decoder]
    cascade, _ = by_name["cascade, 50 + 25 + 25 steps"]
    assert [(c.side, n) for c, n in cascade.calls.items()] == [(16, 50), (32, 25), (64, 25)]
    assert [(c.kind, c.side, n) for c, n in by_name["DiT/2"][0].calls.items()] == [("DiT", 8, 50), ("decoder", 32, 1)]
    before, now = ([row for row in of if row.section.startswith("9.3")] for of in (rows, after))
    assert before[0].seconds == 0.01 and now[0].seconds == sum(n * seconds[call] for call, n in now[0].calls.items())
    keep(calls.CALLS, found | {"calls": found["calls"][1:]})  # one is not known
    first = next(i for i, row in enumerate(rows) if calls.Call(**found["calls"][0]["of"]) in row.calls)
    assert whats_next.timed(rows)[0][first] == rows[first]


def test_the_table_is_of_stages_that_there_are():
    assert set(whats_next.STAGES) <= set(STAGES)
