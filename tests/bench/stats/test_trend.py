"""A rise is believed only where it is clear."""

import numpy as np
import pytest

from bench.stats.trend import sure_slope


def test_a_clear_rise_has_its_slope():
    x = np.linspace(0, 10, 200)
    noise = np.random.default_rng(1).standard_normal(200) * 0.01
    assert sure_slope(x, 3 + 0.05 * x + noise) == pytest.approx(0.05, rel=0.05)
    assert sure_slope(x, 3 + 0.05 * x) == pytest.approx(0.05)


def test_noise_and_a_fall_are_no_rise():
    x = np.linspace(0, 10, 100)
    rng = np.random.default_rng(2)
    found = [sure_slope(x, rng.standard_normal(100)) for _ in range(200)]
    assert sum(slope > 0 for slope in found) < 12  # 2.3 % of them, by two standard errors
    assert sure_slope(x, -x) == 0.0


@pytest.mark.parametrize("points", [0, 1, 9])
def test_a_few_points_are_no_line(points):
    assert sure_slope(np.arange(points, dtype=float), np.arange(points, dtype=float)) == 0.0


def test_points_at_one_moment_are_no_line():
    assert sure_slope(np.ones(50), np.arange(50, dtype=float)) == 0.0
