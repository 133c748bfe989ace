import pytest

from parity.errors import GoldenError
from parity.store.atomic import replacing


def test_a_file_appears_whole_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    with replacing(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert [found.name for found in path.parent.iterdir()] == ["file"]


def test_others_may_read_it_as_they_may_any_other_file(tmp_path):
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "file") as file:
        file.write(b"")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("failure", [ValueError("a"), KeyboardInterrupt(), MemoryError()])
def test_a_failure_leaves_what_was_there_and_nothing_beside_it(tmp_path, failure):
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def fail():
        with replacing(path) as file:
            file.write(b"half")
            raise failure

    with pytest.raises(type(failure)):
        fail()
    assert path.read_bytes() == b"before"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_the_reason_of_the_system_is_kept(tmp_path):
    path = tmp_path / ("n" * 300)
    with pytest.raises(GoldenError) as caught, replacing(path) as file:
        file.write(b"")
    assert str(caught.value) == (
        f"{path}: cannot be written: File name too long. Make room or name a folder that can be written"
    )
    assert list(tmp_path.iterdir()) == []
