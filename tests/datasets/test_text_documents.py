"""Texts of several documents, packed into windows with end tokens between documents."""

import pytest
import torch
from text_examples import batch_of, write

from dltrain.data.fingerprint import fingerprint
from dltrain.datasets.text import Text
from dltrain.errors import ConfigError

DOCUMENTS = ["the whale", "a ship", "an old man and the sea", "Call me Ishmael", "it was", "no more"]


def documents_of(tmp_path, separator="\n\n", **settings):
    path = write(tmp_path / "a.txt", "\n\n".join(DOCUMENTS * 5) + "\n\n")
    return Text(path, separator=separator, context_length=4, **settings)


@pytest.mark.parametrize("tokens", ["characters", "bytes", "words", "bpe", "wordpiece"])
def test_documents_are_packed_between_end_tokens_and_are_not_divided_between_splits(tokens, tmp_path):
    pytest.importorskip("tokenizers")
    data = documents_of(tmp_path, tokens=tokens, min_count=1, isolate_documents=True)
    end, decode = data.spec.tokens.end, data.spec.tokens.decode
    assert end == data.spec.tokens.size - 1 and end not in data.spec.tokens.special
    splits, texts = data.load(), []
    for source in (splits.train, splits.val, splits.test):
        rows = source.rows["tokens"]
        whole = torch.cat([rows[0], rows[1:, 1:].flatten()])
        kept = whole[whole >= 0].tolist()
        assert kept[0] == end and (source is splits.train or kept[-1] == end)
        texts += decode(kept[1:]).split("\n\n")
    assert texts[:24] == DOCUMENTS * 4 and [text for text in texts if text][-5:] == (DOCUMENTS * 5)[-5:]
    assert "30 documents: 25 training, 2 validation, 3 test" in data.describe()[-1]
    batch = batch_of(splits.train)
    expected = [
        [sum(token == end for token in row[: step + 1]) for step in range(4)] for row in batch["inputs"].tolist()
    ]
    assert batch["documents"].tolist() == expected
    assert "documents" not in batch_of(documents_of(tmp_path, tokens=tokens, min_count=1).load().train)
    assert data.spec.tokens.encode("a ship\n\na ship").count(end) == 1
    again = documents_of(tmp_path, tokens=tokens, min_count=1, isolate_documents=True, fitted=data.fit())
    assert again.spec.tokens.size == data.spec.tokens.size and fingerprint(again.load()) == fingerprint(splits)


def test_the_number_of_target_characters_includes_the_separators(tmp_path):
    data = documents_of(tmp_path, min_count=1, tokens="words")
    assert int(batch_of(data.load().test)["characters"].sum()) == len("\n\n".join(DOCUMENTS[3:])) + 2


@pytest.mark.parametrize("map_above", [None, 0], ids=["in memory", "memory-mapped"])
@pytest.mark.parametrize(
    ("text", "settings", "line"),
    [
        ("a\n\n\n\nb\n\nc", {"separator": r"\n\n"}, "data.path: .*got an empty document in line 3"),
        (
            "a b c d",
            {"separator": "|"},
            "data.separator: .*'|', which gives 1 document. The validation split has none.",
        ),
        ("a|b", {"separator": ""}, "data.separator: expected a text of at least one character"),
        ("a|b", {"isolate_documents": True}, "data.isolate_documents: expected false without data.separator"),
        (
            "a|b",
            {"separator": "|", "isolate_documents": True, "streams": True},
            "data.isolate_documents: not supported",
        ),
    ],
)
def test_unusable_documents_and_settings_are_rejected(text, settings, line, map_above, tmp_path, monkeypatch):
    monkeypatch.setenv("DLTRAIN_DATA", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=line):
        Text(write(tmp_path / "a.txt", text), context_length=4, map_above=map_above, **settings).load()


def test_a_special_token_of_a_tokenizer_file_may_separate_documents(tmp_path):
    vocabularies = pytest.importorskip("tokenizers")
    own = vocabularies.Tokenizer(vocabularies.models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    own.pre_tokenizer = vocabularies.pre_tokenizers.Whitespace()
    own.add_special_tokens(["<|endoftext|>"])
    own.save(str(tmp_path / "tokenizer.json"))
    path = write(tmp_path / "a.txt", "a b a<|endoftext|>b b b<|endoftext|>" * 20)
    data = Text(path, tokenizer=str(tmp_path / "tokenizer.json"), separator="<|endoftext|>", context_length=4)
    assert (data.spec.tokens.size, data.spec.tokens.end) == (4, 3)
    assert data.load().train.rows["tokens"][0].tolist() == [3, 1, 2, 1, 3]
