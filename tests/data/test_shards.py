"""Token files: what is written comes back, in the narrowest type that holds the vocabulary."""

import json

import numpy as np
import pytest

from bloomery.core.errors import InputError
from bloomery.data.shards import SPLITS, ShardWriter, fingerprint_of, open_shard, token_dtype


def written(folder, vocabulary: int, documents: list[list[int]], eos: int = 0):
    for split in SPLITS:
        writer = ShardWriter(folder, split, eos=eos, vocabulary=vocabulary)
        for ids in documents:
            writer.add(ids, 3 * len(ids))
        counts = writer.close()
    (folder / "shards.json").write_text(json.dumps({"vocabulary": vocabulary, "eos": eos}))
    return counts


@pytest.mark.parametrize(("vocabulary", "width"), [(300, 2), (2**16, 2), (2**16 + 1, 4), (200_000, 4)])
def test_round_trip(tmp_path, vocabulary, width):
    documents = [[1, 2, vocabulary - 1], [], [7], list(range(200))]
    counts = written(tmp_path, vocabulary, documents)
    assert counts == {"documents": 4, "tokens": 208, "bytes": 3 * 204}
    shard = open_shard(tmp_path, "train")
    assert [shard.document(i).tolist() for i in range(4)] == [[*ids, 0] for ids in documents]
    assert shard.tokens.dtype.itemsize == width and (tmp_path / "train.bin").stat().st_size == 208 * width
    assert shard.bytes_.tolist() == [3 * len(ids) for ids in documents] and shard.vocabulary == vocabulary
    assert np.dtype(token_dtype(vocabulary)).byteorder in "<="


def test_the_same_documents_give_the_same_bytes(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        written(tmp_path / name, 300, [[1, 2], [3]])
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert len(files) == 7
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_a_folder_without_shards_says_how_to_make_them(tmp_path):
    with pytest.raises(InputError, match="not a folder of token shards") as caught:
        open_shard(tmp_path, "train")
    assert "bloomery shards" in caught.value.hint


def test_a_fingerprint_names_the_file_that_changed(tmp_path):
    written(tmp_path, 300, [[1, 2], [3]])
    before = fingerprint_of(tmp_path)
    assert set(before) == {path.name for path in tmp_path.iterdir()} and fingerprint_of(tmp_path) == before
    for path in tmp_path.iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        after = fingerprint_of(tmp_path)
        assert {name for name in before if before[name] != after[name]} == {path.name}
        path.write_bytes(whole)


def test_of_a_large_file_length_ends_and_samples_are_looked_at(tmp_path):
    path, size = tmp_path / "train.bin", 5 << 20
    path.write_bytes(bytes(size))
    before = fingerprint_of(tmp_path)
    for place in (10, size - 10, size // 65 * 30 + 100):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"\1")
        assert fingerprint_of(tmp_path) != before
        path.write_bytes(bytes(size))
    path.write_bytes(bytes(size + 2))
    assert fingerprint_of(tmp_path) != before
