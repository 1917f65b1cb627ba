"""The styles of sides: the character stays readable, and no two styles look alike."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from divconq_pl.data.styles import STYLES, paint

BLANK = np.zeros((32, 32), np.uint8)


@pytest.mark.parametrize("style", STYLES)
def test_character_stands_out_from_its_background_everywhere(style: str) -> None:
    ink, ground = paint(np.full_like(BLANK, 255), style).astype(int), paint(BLANK, style).astype(int)
    assert len(np.unique(ink)) == 1
    assert np.abs(ink - ground).min() >= 70
    half = paint(np.full_like(BLANK, 128), style)
    np.testing.assert_allclose(half, (ink + ground) / 2, atol=2)


def test_gray_values_of_what_is_on_plain_ground() -> None:
    ink = np.array([[0, 64, 255]] * 3, np.uint8)
    np.testing.assert_array_equal(paint(ink, "white on black"), ink)
    np.testing.assert_array_equal(paint(ink, "black on white"), 255 - ink)


def test_no_two_backgrounds_are_alike() -> None:
    grounds = {style: paint(BLANK, style).astype(float) for style in STYLES}
    assert len(grounds) >= 8
    for one, other in itertools.combinations(grounds.values(), 2):
        assert np.abs(one - other).mean() > 40


def test_pattern_does_not_depend_on_the_size_of_the_image() -> None:
    for style in STYLES:
        small, large = paint(BLANK, style), paint(np.zeros((128, 128), np.uint8), style)
        coarse = large.reshape(8, 16, 8, 16).mean((1, 3))
        np.testing.assert_allclose(small.reshape(8, 4, 8, 4).mean((1, 3)), coarse, atol=40)
