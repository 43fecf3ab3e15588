from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.releases.csv_lists import csv_rows
from data_pipelines.releases.paths import file_names, folders, is_file, stays_inside


@pytest.mark.parametrize(
    "path", ["a.jpg", "1/a.jpg", "1\\a.jpg", "./a.jpg", "1//a.jpg", "…/ä b.jpg", ".hidden", "a..b"]
)
def test_paths_that_stay_inside(path: str) -> None:
    assert stays_inside(path)


@pytest.mark.parametrize(
    "path",
    [
        *("", ".", "..", "../a", "1/..", "1/../a", "..\\a", "1/.. /a", "1/.../a"),
        *("/a", "//server/share/a", "\\a", "\\\\server\\share\\a", "C:a", "C:/a", "C:\\a", "\0", "a\0b"),
    ],
)
def test_paths_that_might_leave(path: str) -> None:
    assert not stays_inside(path)


def test_a_name_that_the_system_refuses_is_no_file(tmp_path: Path) -> None:
    assert not is_file(tmp_path / (300 * "a"))


def test_folders_of_pictures_are_not_looked_into(tmp_path: Path) -> None:
    for name in ("b/c/d", "My_Images/1", "a_image/2"):
        (tmp_path / name).mkdir(parents=True)
    names = [str(folder.relative_to(tmp_path)) for folder in folders(tmp_path)]
    assert names == [".", "My_Images", "a_image", "b", "b/c"]
    assert list(folders(tmp_path / "absent")) == [tmp_path / "absent"]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: can't be looked into \(No such file"):
        list(file_names(tmp_path / "absent"))
    for path in (tmp_path, tmp_path / "absent.csv"):
        with pytest.raises(DataError, match=f"{path}: can't be read"):
            list(csv_rows(path))
