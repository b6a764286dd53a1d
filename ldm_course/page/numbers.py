"""How numbers are shown, in tables, captions and lines."""

from __future__ import annotations

from collections.abc import Mapping

NONE = "–"  # for a number that is not there


def duration(seconds: float) -> str:
    """Seconds in the largest two units that fit: 0.42 s, 12.3 s, 4 min 05 s, 3 h 20 min."""
    if round(seconds, 1) < 60:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    if round(seconds) < 3600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    return f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60:02d} min"


def si(number: float, unit: str = "") -> str:
    """Three digits and a prefix: si(613e6, "FLOP") is "613 MFLOP", si(0.0123, "s") is "12.3 ms"."""
    prefixes = {"P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1, "m": 1e-3, "µ": 1e-6}
    large = (prefix for prefix, scale in prefixes.items() if abs(number) >= 0.9995 * scale)  # 999.9 k is 1 M
    prefix = next(large, "µ") if number else ""
    digits = number / prefixes[prefix]
    shown = f"{digits:.0f}" if abs(digits) >= 99.95 else f"{digits:.3g}"
    return f"{shown} {prefix}{unit}".rstrip()


def seconds(s: float) -> str:
    """A time as an instrument gives it, with three digits, or from 1000 s on as a `duration`; negative ones too."""
    sign, s = "-" if s < 0 else "", abs(s)
    return sign + (si(s, "s") if s < 1000 else duration(s))


def times(over: float | None, under: float | None = 1.0, digits: int = 3) -> str:
    """How many times: times(12, 5) is "2.4x". NONE where a number is missing, or would be divided by 0."""
    return NONE if over is None or not under else f"{over / under:.{digits}g}x"


def plus_minus(value: float, error: float | None, digits: int = 3) -> str:
    """A number with its standard error: plus_minus(0.1478, 0.0071) is "0.148 ± 0.007"; alone where that is None."""
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def kd_e(judged: Mapping[str, float]) -> str:
    """KD-E of judged pictures as a record holds it, with its standard error where that was kept."""
    return plus_minus(judged["kd_e"], judged.get("kd_e_error"))


def number(value: float) -> str:
    """Whole ones with commas, others with three digits, and from 1000 on with a prefix."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if abs(value) < 1000 else si(value)
