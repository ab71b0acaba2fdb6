"""Files that are written whole or not at all."""

from pathlib import Path

import pytest

from autoquant.files import replacing


def test_a_file_changes_at_once_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("before")
    with replacing(path) as file:
        file.write(b"after")
        file.flush()
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode, "others can read it"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_goes_wrong_leaves_the_file_as_it_was(tmp_path: Path, error: type) -> None:
    path = tmp_path / "x.json"
    path.write_text("before")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert [item.name for item in tmp_path.iterdir()] == ["x.json"]
    assert path.read_text() == "before"
