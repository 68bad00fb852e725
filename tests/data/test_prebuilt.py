"""Token files of other tools: read as they are, checked, and never a pickle."""

from pathlib import Path

import numpy as np
import pytest

from bloomery.core.errors import InputError
from bloomery.data.prebuilt import Joined
from bloomery.data.shards import open_shard
from bloomery.data.validation import corpus_bits_per_byte
from tests.data.test_validation import uniform

IDS = np.array([5, 6, 0, 7, 8, 9, 0, 3], np.uint16)


def headed(path: Path, ids: np.ndarray, magic: int, count: int | None = None) -> None:
    """A file as llm.c writes it."""
    header = np.zeros(256, "<i4")
    header[:3] = magic, 1, len(ids) if count is None else count
    path.write_bytes(header.tobytes() + ids.tobytes())


@pytest.fixture
def nanogpt(tmp_path: Path) -> Path:
    IDS.tofile(tmp_path / "train.bin")
    IDS[:4].tofile(tmp_path / "val.bin")
    (tmp_path / "meta.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")            # runs a program when unpickled
    return tmp_path


def test_nanogpt_files_are_one_document_of_ids_up_to_the_largest(nanogpt):
    shard = open_shard(nanogpt, "train")
    assert shard.tokens.tolist() == IDS.tolist() and shard.ends.tolist() == [8]
    assert (shard.eos, shard.vocabulary, shard.bytes_) == (None, 10, None)
    assert open_shard(nanogpt, "validation").vocabulary == 10                        # of both splits
    found = corpus_bits_per_byte(shard, uniform, context=3)
    assert set(found) == {"val_loss", "val_perplexity"}                              # bytes are not known


def test_an_end_of_text_tells_documents_apart(nanogpt):
    shard = open_shard(nanogpt, "train", eos=0, vocabulary=50_304)
    assert shard.ends.tolist() == [3, 7, 8] and shard.vocabulary == 50_304
    assert shard.document(1).tolist() == [7, 8, 9, 0]


@pytest.mark.parametrize(("magic", "dtype"), [(20240520, np.uint16), (20240801, np.uint32)])
def test_llm_c_files_have_a_header_and_come_in_pieces(tmp_path, magic, dtype):
    for name, ids in {"fineweb_train_000001.bin": IDS[:5], "fineweb_train_000002.bin": IDS[5:],
                      "fineweb_val_000000.bin": IDS[:2]}.items():
        headed(tmp_path / name, ids.astype(dtype), magic)
    shard = open_shard(tmp_path, "train", eos=0)
    assert shard.tokens[:].tolist() == IDS.tolist() and len(shard.tokens) == 8 and shard.ends.tolist() == [3, 7, 8]
    assert shard.document(1).tolist() == [7, 8, 9, 0]                                # across the two files
    assert open_shard(tmp_path, "validation").tokens.tolist() == [5, 6]


def test_joined_arrays_read_as_one():
    parts = [np.arange(3), np.arange(3, 4), np.arange(4, 9)]
    joined = Joined(parts)
    places = np.array([[8, 0], [3, 2]])
    assert joined[places].tolist() == places.tolist() and joined[2:6].tolist() == [2, 3, 4, 5] and len(joined) == 9


def test_what_is_no_token_file_is_refused(tmp_path, nanogpt):
    headed(nanogpt / "train.bin", IDS, 20240520, count=9)
    with pytest.raises(InputError, match="cut short") as caught:
        open_shard(nanogpt, "train")
    assert "says 9 ids" in caught.value.why
    (nanogpt / "train.bin").write_bytes(b"abc")
    with pytest.raises(InputError, match="not a token file"):
        open_shard(nanogpt, "train")
    (nanogpt / "train.bin").unlink()
    with pytest.raises(InputError, match="no token file for the train split") as caught:
        open_shard(nanogpt, "train")
    assert "val.bin" in caught.value.why


def test_ids_beyond_the_vocabulary_are_refused_before_they_are_looked_up(nanogpt):
    with pytest.raises(InputError, match="ids that the vocabulary does not have") as caught:
        open_shard(nanogpt, "train", vocabulary=9)
    assert "largest id of train is 9" in caught.value.why
