"""Long texts, whose tokens are memory-mapped from files in a cache."""

import shutil

import pytest
import torch
from text_examples import SENTENCES, UNSEEN, write

from dltrain.data.fingerprint import fingerprint
from dltrain.data.loader import Batches
from dltrain.datasets import long_file, mapped_tokens, subwords, text_vocabulary
from dltrain.datasets.text import Text
from dltrain.errors import ConfigError


def batches_of(data):
    splits = data.load()
    sources = (splits.train, splits.val, splits.test, data.evaluation())
    return [list(Batches(source, 16, training=True)) for source in sources], fingerprint(splits), data.describe()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DLTRAIN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(long_file, "CHUNK_BYTES", 1_000)
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("tokens", "separator"),
    [
        ("characters", None),
        ("words", None),
        *((tokens, ",") for tokens in ("bytes", "words", "bpe", "wordpiece")),
        *(pytest.param(tokens, None, marks=pytest.mark.slow) for tokens in ("bytes", "bpe", "wordpiece")),
        pytest.param("characters", ",", marks=pytest.mark.slow),
    ],
)
def test_a_memory_mapped_text_has_the_batches_and_the_fingerprint_of_a_text_in_memory(
    tokens, separator, tmp_path, cache, monkeypatch
):
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(subwords.lines_of, "__defaults__", (500,))
    monkeypatch.setattr(long_file.join_lines, "__defaults__", (500,))
    path = write(tmp_path / "a.txt", (SENTENCES + UNSEEN).replace("\n", "\r\n"))
    settings = {"tokens": tokens, "separator": separator, "context_length": 9, "stride": 5, "max_words": 300}
    kept, mapped = (Text(path, map_above=above, **settings) for above in (None, 0))
    assert kept.fit() == mapped.fit()
    expected, found = batches_of(kept), batches_of(mapped)
    assert found[1:] == expected[1:]
    for ours, own in zip(found[0], expected[0], strict=True):
        for batch, other in zip(ours, own, strict=True):
            assert batch.keys() == other.keys()
            assert all(
                batch[name].dtype == other[name].dtype and torch.equal(batch[name], other[name]) for name in batch
            )
    monkeypatch.setattr(mapped_tokens, "_write", None)  # the next text must be read from the cache
    monkeypatch.setattr(text_vocabulary, "_fit_pieces", None)
    again = Text(path, map_above=0, **settings)
    assert fingerprint(again.load()) == expected[1] and again.describe() == expected[2]
    (tmp_path / "a.txt").write_bytes((tmp_path / "a.txt").read_bytes() + b"more")
    with pytest.raises(TypeError):  # the changed file needs a new cache, which cannot be written
        Text(path, map_above=0, **settings).load()


def test_a_long_text_is_read_once_with_a_cache_and_otherwise_twice_for_characters_and_three_times_for_words(
    tmp_path, cache, monkeypatch
):
    reads, read = [], long_file.LongFile._read
    monkeypatch.setattr(long_file.LongFile, "_read", lambda self, digest: reads.append(1) or read(self, digest))
    path = write(tmp_path / "a.txt", SENTENCES)
    for kind, counts in (("words", (3, 1)), ("characters", (2, 1))):
        for count in counts:
            reads.clear()
            Text(path, tokens=kind, map_above=0, context_length=9).load()
            assert len(reads) == count


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "foreign", "manifest"])
def test_a_damaged_cache_is_computed_again(damage, tmp_path, cache):
    path = write(tmp_path / "a.txt", SENTENCES)
    expected = fingerprint(Text(path, map_above=0, context_length=9).load())
    (folder,) = (cache / "tokens").glob("[!.]*")
    file = folder / "tokens-0.bin"
    content = file.read_bytes()
    if damage == "flip":
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "cut":
        file.write_bytes(content[:-1])
    elif damage == "delete":
        file.unlink()
    elif damage == "manifest":
        (folder / "manifest.json").write_text("[]")
    else:
        write(tmp_path / "b.txt", SENTENCES.upper())
        Text(str(tmp_path / "b.txt"), map_above=0, context_length=9).load()
        (other,) = set((cache / "tokens").glob("[!.]*")) - {folder}
        shutil.rmtree(folder)
        other.rename(folder)
    assert fingerprint(Text(path, map_above=0, context_length=9).load()) == expected
    assert file.read_bytes() == content


def test_a_long_text_is_rejected_if_it_is_not_utf8_or_its_cache_cannot_be_written(tmp_path, cache):
    (tmp_path / "a.bin").write_bytes(b"ab\xff" * 3000)
    with pytest.raises(ConfigError, match=r"data.path: expected UTF-8 text .*data.tokens=bytes"):
        Text(str(tmp_path / "a.bin"), map_above=0)
    cache.write_text("a file")
    with pytest.raises(ConfigError, match=r"data.path: writing a cache to .* failed: .*DLTRAIN_DATA"):
        Text(str(tmp_path / "a.bin"), tokens="bytes", map_above=0).load()
