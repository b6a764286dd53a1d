"""The scenes' shapes, as signed distance functions.

Each takes coordinates from the middle, x to the right and y down, in radii, and returns how far outside the shape a
point is, in radii: negative inside, zero on the outline. All shapes fit into the unit circle, and have soft corners by
subtracting a constant. The formulas are Inigo Quilez's (iquilezles.org/articles/distfunctions2d).
"""

from math import sqrt

import torch


def circle(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x * x + y * y).sqrt() - 0.9


def square(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x, y = x.abs() - 0.6, y.abs() - 0.6
    outside = (x.clamp(min=0).square() + y.clamp(min=0).square()).sqrt()
    return outside + torch.maximum(x, y).clamp(max=0) - 0.14


def triangle(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    r, k = 0.72, sqrt(3)
    x, y = x.abs() - r, 0.12 - y + r / k
    beyond = x + k * y > 0
    x, y = torch.where(beyond, (x - k * y) / 2, x), torch.where(beyond, (-k * x - y) / 2, y)
    x = x - x.clamp(-2 * r, 0)
    return -(x * x + y * y).sqrt() * y.sign() - 0.1


def hexagon(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    r, a, b, c = 0.78, -sqrt(3) / 2, 0.5, 1 / sqrt(3)
    x, y = x.abs(), y.abs()
    fold = 2 * (a * x + b * y).clamp(max=0)
    x, y = x - fold * a, y - fold * b
    x, y = x - x.clamp(-c * r, c * r), y - r
    return (x * x + y * y).sqrt() * y.sign() - 0.08


def star(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    r, inner, a, b = 0.94, 0.5, 0.809016994, -0.587785252
    x, y = x.abs(), -y
    fold = 2 * (a * x + b * y).clamp(min=0)
    x, y = x - fold * a, y - fold * b
    fold = 2 * (-a * x + b * y).clamp(min=0)
    x, y = (x + fold * a).abs(), y - fold * b - r
    p, q = -inner * b, inner * a - 1
    h = ((x * p + y * q) / (p * p + q * q)).clamp(0, r)
    return ((x - p * h).square() + (y - q * h).square()).sqrt() * (y * p - x * q).sign() - 0.06


def heart(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    scale = 0.71
    x, y = x.abs() * scale, 0.55 - y * scale
    lobe = ((x - 0.25).square() + (y - 0.75).square()).sqrt() - sqrt(2) / 4
    half = 0.5 * (x + y).clamp(min=0)
    side = torch.minimum(x * x + (y - 1).square(), (x - half).square() + (y - half).square()).sqrt()
    return torch.where(x + y > 1, lobe, side * (x - y).sign()) / scale - 0.04


def ring(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return ((x * x + y * y).sqrt() - 0.66).abs() - 0.25


def moon(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x - 0.13
    return torch.maximum((x * x + y * y).sqrt() - 0.86, 0.73 - ((x + 0.45).square() + y * y).sqrt())


SHAPES = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "hexagon": hexagon,
    "star": star,
    "heart": heart,
    "ring": ring,
    "moon": moon,
}
