"""All images of a folder are found, however deep."""

import os
from collections import Counter

import pytest
from pixels import draw_images

from divconq_pl import InputError
from divconq_pl.data.listing import walk


def test_images_are_found_however_deep_and_other_files_are_counted(tmp_path):
    draw_images(tmp_path / "a" / "deeper", 6)
    draw_images(tmp_path / ".hidden", 1)
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "a" / "raw.cr2").touch()
    passed_over = Counter()
    found = list(walk(tmp_path, passed_over))
    expected = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*.png") if ".hidden" not in p.parts)
    assert [os.fsdecode(file.path) for file in found] == [str(path) for path in expected]
    assert [(file.size, file.modified) for file in found] == [
        ((tmp_path / path).stat().st_size, (tmp_path / path).stat().st_mtime_ns) for path in expected
    ]
    assert passed_over == {".txt": 1, ".cr2": 1}


def test_a_link_to_a_folder_is_followed_and_one_to_its_own_folder_is_not(tmp_path):
    images = draw_images(tmp_path / "images", 5)
    draw_images(tmp_path / "elsewhere", 1)
    (images / "link").symlink_to(tmp_path / "elsewhere")
    (images / "circle").symlink_to(images)
    assert len(list(walk(images, Counter()))) == 6


@pytest.mark.parametrize(("make", "state"), [("mkdir", None), ("touch", "is a file"), (None, "does not exist")])
def test_what_is_no_folder_is_refused(tmp_path, make, state):
    place = tmp_path / "place"
    if make:
        getattr(place, make)()
    if state is None:
        assert list(walk(place, Counter())) == []
    else:
        with pytest.raises(InputError, match=f"place' {state}; give a folder of images"):
            list(walk(place, Counter()))
