"""CIFAR-10's official archives, made synthetically in their real formats."""

import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from autoquant.errors import TaskError
from autoquant.tasks import cifar10_archive
from autoquant.tasks.cifar10_archive import read_cifar10, read_python_batch

COUNT = 20
BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cifar10_archive, "_BATCH_IMAGES", COUNT)
    monkeypatch.setenv("AUTOQUANT_DATA", str(tmp_path))


def batch(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) and labels of one batch file."""
    random = np.random.default_rng(index)
    images = random.integers(0, 256, (COUNT, 32, 32, 3), np.uint8)
    return images, random.integers(0, 10, COUNT, np.uint8)


def rows(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(COUNT, 3072)


def binary_batch(index: int) -> bytes:
    images, labels = batch(index)
    return np.concatenate([labels[:, None], rows(images)], axis=1).tobytes()


def text(value: str) -> bytes:
    """A byte string as Python 2 pickled it."""
    return b"U" + bytes([len(value)]) + value.encode()


def python_batch(index: int) -> bytes:
    """The pickle that Python 2 wrote, opcode by opcode; Python 3 writes another."""
    images, labels = batch(index)
    pixels = rows(images).tobytes()
    number = b"M" + struct.pack("<H", COUNT)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text("b") + b"\x87R"
        b"(K\x01" + number + b"M\x00\x0c\x86"
        b"cnumpy\ndtype\n" + text("u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<I", len(pixels)) + pixels + b"tb"
    )
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return (
        b"\x80\x02}(" + text("batch_label") + text(f"batch {index}")
        + text("labels") + listed + text("data") + array
        + text("filenames") + b"](" + text("a.png") + b"eu."
    )  # fmt: skip


FORMATS = {
    "binary": ("cifar-10-batches-bin", ".bin", binary_batch, "cifar-10-binary.tar.gz"),
    "python": ("cifar-10-batches-py", "", python_batch, "cifar-10-python.tar.gz"),
}


def write_release(folder: Path, kind: str, *, packed: bool, leave_out: str = "") -> None:
    below, suffix, encode, archive = FORMATS[kind]
    files = {
        f"{below}/{name}{suffix}": encode(index)
        for index, name in enumerate(BATCHES)
        if name != leave_out
    }
    if not packed:
        (folder / below).mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return
    with tarfile.open(folder / archive, "w:gz", compresslevel=1) as opened:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", list(FORMATS))
def test_every_release_gives_the_official_order(tmp_path: Path, kind: str, packed: bool) -> None:
    write_release(tmp_path, kind, packed=packed)
    for part, indices in (("train", range(5)), ("test", [5])):
        images, labels = read_cifar10(part)
        expected = [batch(index) for index in indices]
        assert (images == np.concatenate([pair[0] for pair in expected])).all()
        assert (labels == np.concatenate([pair[1] for pair in expected])).all()
        assert (images.dtype, images.shape[1:]) == (np.uint8, (32, 32, 3))


def test_arrays_go_first_part_by_part(tmp_path: Path) -> None:
    write_release(tmp_path, "binary", packed=False)
    images, labels = batch(99)
    np.savez(tmp_path / "cifar10_test_10k.npz", x=images, y=labels)
    assert (read_cifar10("test")[0] == images).all()
    assert len(read_cifar10("train")[0]) == 5 * COUNT


def test_binary_and_python_release_agree_with_pickle(tmp_path: Path) -> None:
    """Our reading of the pickle against Python's own, which would run what it names."""
    content = python_batch(3)
    theirs = pickle.loads(content, encoding="bytes")
    images, labels = read_python_batch(content, "batch")
    assert (rows(images) == theirs[b"data"]).all()
    assert labels.tolist() == theirs[b"labels"]


def test_nothing_found_lists_all_that_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(TaskError) as caught:
        read_cifar10("train")
    for name in ("cifar10_train_20k.npz", "cifar-10-batches-bin/data_batch_1.bin",
                 "cifar-10-binary.tar.gz", "cifar-10-batches-py/data_batch_1",
                 "cifar-10-python.tar.gz", str(tmp_path)):  # fmt: skip
        assert name in str(caught.value)


def test_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOQUANT_DATA")
    with pytest.raises(TaskError, match="set AUTOQUANT_DATA"):
        read_cifar10("test")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickle_that_names_a_function_is_refused_and_not_run(tmp_path: Path) -> None:
    content = pickle.dumps({b"data": Bomb(tmp_path / "exploded")})
    with pytest.raises(TaskError, match=r"batch: refused: the pickle names pathlib"):
        read_python_batch(content, "batch")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", [b"numpy\nload", b"builtins\neval", b"numpy.core\nmultiarray"])
def test_only_three_names_are_known(name: bytes) -> None:
    with pytest.raises(TaskError, match="refused: the pickle names"):
        read_python_batch(b"\x80\x02c" + name + b"\n.", "batch")


def _shorter(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_shorter, "is no CIFAR-10 batch of the Python version"),
        (lambda content: b"", "is no CIFAR-10 batch"),
        (lambda content: content.replace(b"u1", b"O8"), "refused: the pickle holds an array of"),
        (lambda content: content.replace(b"](K", b"](K\x05K", 1), "is damaged: not 20 images"),
        (lambda content: content.replace(b"U\x06labels", b"U\x06labelz"), "is no CIFAR-10 batch"),
    ],
)
def test_damaged_pickles(change, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        read_python_batch(change(python_batch(0)), "batch")


def test_damaged_binary_files(tmp_path: Path) -> None:
    write_release(tmp_path, "binary", packed=False)
    path = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TaskError, match=r"test_batch.bin is damaged: 61,459 bytes instead of"):
        read_cifar10("test")
    path.write_bytes(b"\x0b" + binary_batch(5)[1:])
    with pytest.raises(TaskError, match="a label is not among 0 to 9"):
        read_cifar10("test")


def test_damaged_archives(tmp_path: Path) -> None:
    write_release(tmp_path, "binary", packed=True, leave_out="data_batch_3")
    with pytest.raises(TaskError, match=r"binary.tar.gz holds no .*data_batch_3.bin"):
        read_cifar10("train")
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(_shorter(path.read_bytes()))
    with pytest.raises(TaskError, match=r"cifar-10-binary.tar.gz is damaged"):
        read_cifar10("train")


def test_missing_batch_file_is_named(tmp_path: Path) -> None:
    write_release(tmp_path, "python", packed=False, leave_out="data_batch_4")
    with pytest.raises(TaskError, match="data_batch_4"):
        read_cifar10("train")
