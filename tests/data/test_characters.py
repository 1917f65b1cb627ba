"""Characters in typefaces: which there are, what is drawn, how far it is turned."""

from __future__ import annotations

import unicodedata

import numpy as np

from divconq_pl.data.characters import FACES, characters, draw, draw_in_all, load_font, load_fonts, place


def slant(image: np.ndarray) -> float:
    """Angle of the main axis of the ink, in degrees from the vertical."""
    y, x = np.nonzero(image > 100)
    _, axes = np.linalg.eigh(np.cov(x, y))
    return float(np.rad2deg(np.arctan(axes[0, -1] / axes[1, -1])))


def test_character_is_turned_by_its_share_of_the_rotation() -> None:
    bar = ord("|")
    angles = {}
    for rotation in (0.0, 15.0, 90.0):
        ink = draw("DejaVuSans", load_font("DejaVuSans", 58), bar)
        assert ink is not None
        jitter = np.random.default_rng(0).uniform(-1, 1, (50, 4))
        measured = np.array([slant(place(ink, 32, rotation, row)) for row in jitter])
        # A line has no direction, so angles count modulo 180. A bar turned clockwise leans to the left below.
        difference = (measured + rotation * jitter[:, 0] + 90) % 180 - 90
        assert np.abs(difference).max() < 2
        angles[rotation] = np.abs(measured).max()
    assert angles[0.0] < 0.5
    assert 13 < angles[15.0] < 17
    assert angles[90.0] > 80


def test_look_alikes_are_one_character() -> None:
    found = set(characters(12))
    assert found & {ord("A"), 0x0391, 0x0410} == {ord("A")}  # Latin, Greek, Cyrillic
    assert found & {ord("o"), 0x03BF, 0x043E} == {ord("o")}
    assert {ord("B"), ord("8"), ord("b"), 0x00C4} <= found
    assert 2000 < len(found) < 2400
    assert {unicodedata.category(chr(code))[0] for code in found} == set("LNSP")


def test_characters_draw_ink_in_most_faces_and_no_placeholder() -> None:
    fonts = {face: load_font(face, 32) for face in FACES}
    box = {face: bytes(font.getmask(chr(0x10FFFE))) for face, font in fonts.items()}
    for code in characters(12)[::40]:
        drawn = [face for face, font in fonts.items() if draw(face, font, code) is not None]
        assert len(drawn) >= 12
        assert all(bytes(fonts[face].getmask(chr(code))) != box[face] for face in drawn)


def test_fewer_faces_leave_more_characters() -> None:
    few, many = set(characters(12)), set(characters(4))
    assert len(many) > 2 * len(few)
    assert len(few - many) < 20  # a look-alike that comes before it may be in its place


def test_character_is_drawn_in_the_faces_that_cover_it() -> None:
    fonts = load_fonts(32)
    in_all, braille = draw_in_all(fonts, ord("A")), draw_in_all(fonts, 0x28FB)
    assert list(in_all) == list(range(len(FACES)))
    assert [FACES[face] for face in braille] == [
        name for name in FACES if name.startswith(("DejaVuSans", "DejaVuSerif")) and "Mono" not in name
    ]
    assert in_all[0].tobytes() != in_all[1].tobytes()
