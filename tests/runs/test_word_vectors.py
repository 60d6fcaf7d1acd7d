"""Initial embeddings from a file of word vectors in the format of GloVe or word2vec."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from run_examples import model_of, read

from dltrain.cli.main import main
from dltrain.config import compose
from dltrain.errors import ConfigError
from dltrain.runs import dry_run
from dltrain.runs.assemble import build_components
from dltrain.runs.job import load_job
from dltrain.runs.launch import Outcome

LSTM = ["model=lstm", "model.hidden_size=4", "model.num_layers=1", "data=text_table", "data.min_count=1"]
KNOWN = {"good": [0.5, -1, 2, 0.25], "bad": [-0.5, 1, -2, 0.75], "zebra": [9, 9, 9, 9], "film": [1, 2, 3, 5]}
LINES = [" ".join([word, *map(str, values)]) for word, values in KNOWN.items()]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("texts") / "a.csv"
    rows = [f"a {kind} film about {number},{kind}\n" for number in range(12) for kind in ("good", "bad")]
    path.write_text("text,label\n" + "".join(rows))
    return [*LSTM, f"data.path={path}", "trainer.max_steps=2"]


@pytest.fixture
def prepared(texts: list[str], tmp_path: Path) -> Callable[..., tuple[dict[str, torch.Tensor], list[str]]]:
    """Return a function that writes a file of vectors and returns a run's initial embeddings by word, and its notes."""

    def prepare(lines: list[str], *more: str) -> tuple[dict[str, torch.Tensor], list[str]]:
        (tmp_path / "vectors.txt").write_text("".join(f"{line}\n" for line in lines))
        own = [word for word in texts if "model=bag_of_words" not in more or not word.startswith("model")]
        overrides = ["device=cpu", *own, f"transfer.embeddings={tmp_path / 'vectors.txt'}", *more]
        with dry_run.prepare_run(compose.compose(overrides)) as (components, _):
            decode = components.data.spec.tokens.decode
            weight = components.model.state_dict()["steps.embedding.weight"]
            return {decode([number]): row for number, row in enumerate(weight)}, list(components.notes)

    return prepare


@pytest.mark.parametrize("header", [[], ["4 4"]], ids=["glove", "word2vec"])
def test_words_in_the_file_get_their_vectors_and_other_words_get_random_vectors_of_the_same_scale(
    header: list[str], prepared
) -> None:  # type: ignore[no-untyped-def]
    rows, notes = prepared([*header, *LINES])
    for word in ("good", "bad", "film"):
        np.testing.assert_array_equal(rows[word], np.array(KNOWN[word], dtype=np.float32))
    assert "  word vectors: 3 of 18 tokens found; other tokens have random values" in notes
    others = torch.stack([row for word, row in rows.items() if word not in KNOWN])
    assert float(others.std()) == pytest.approx(np.std([KNOWN[word] for word in ("good", "bad", "film")]), rel=0.3)


@pytest.mark.parametrize(
    ("lines", "more", "message"),
    [
        (LINES, ["model.hidden_size=5"], "expected vectors of 5 numbers.*got 4 in .*Set model.hidden_size=4"),
        ([*LINES, "good 1 2 3"], [], "expected a word and 4 numbers in each line.*got 'good 1 2 3' in line 5 of"),
        ([*LINES, "bad 1 2 x 4"], [], ".*got 'bad 1 2 x 4' in line 5 of"),
        (["zebra 1 2 3 4"], [], "expected a file with words of the training texts, got"),
        ([], [], ".*got an empty file"),
        (["good\t1\t2"], [], "expected a word and its numbers, separated by spaces, .*got 'good.t1.t2' in line 1 of"),
        (LINES, ["model=bag_of_words"], "not supported because a BagOfWords does not have exactly one"),
        (LINES, ["transfer.weights=x"], "not supported with transfer.weights"),
    ],
)
def test_unusable_word_vectors_are_rejected(lines: list[str], more: list[str], message: str, prepared) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=f"^transfer.embeddings: {message}"):
        prepared(lines, *more)


def test_frozen_vectors_do_not_change_and_a_finished_run_does_not_need_their_file(
    texts: list[str], train: Callable[..., Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vectors.txt").write_text("\n".join(LINES))
    frozen = ["transfer=freeze", f"transfer.embeddings={tmp_path / 'vectors.txt'}"]
    run = train(*texts, *frozen)
    (tmp_path / "vectors.txt").unlink()
    components = build_components(load_job(run.folder))
    row = components.data.spec.tokens.encode("film")[0]
    assert model_of(run)["steps.embedding.weight"][row].tolist() == KNOWN["film"]
    assert read(run.folder / "transfer.json")["names"] == ["steps.embedding.weight"]
    assert main(["predict", str(run.folder), "--text", "a good film"]) == 0
    assert '"class_name"' in capsys.readouterr().out
    assert main(["resume", str(run.folder), "trainer.max_steps=3"]) == 0
