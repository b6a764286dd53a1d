"""What several tests share."""

from pathlib import Path

from ldm_course.lab.profiles import PROFILES

ROOT = Path(__file__).resolve().parent.parent
SMOKE = PROFILES["smoke"]
