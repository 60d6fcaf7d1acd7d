"""``dltrain generate`` on language models: text is streamed to standard output."""

import os
import sys
import threading
from pathlib import Path

import pytest
import torch
from prediction_examples import TEXT, SmallData, Train, rebuilt

from dltrain.cli.main import main

LSTM = ["model=lstm", "model.hidden_size=16", "model.num_layers=1"]


@pytest.mark.parametrize("model", [TEXT, LSTM], ids=["gpt", "lstm"])
def test_text_continues_the_prompt(model: list[str], train: Train, generate, small_data: SmallData) -> None:  # type: ignore[no-untyped-def]
    folder = train(*model, *small_data("text"))
    components = rebuilt(folder).components
    tokens = components.data.spec.tokens.encode("It was")
    with torch.inference_mode():
        for _ in range(10):  # the prompt and these tokens fill the context of 16 tokens
            tokens.append(int(components.model(torch.tensor([tokens]))[0, -1].argmax()))
    result = generate(folder, "--prompt", "It was", "--length", 10, "--temperature", 0)
    assert result.code == 0 and result.out == components.data.spec.tokens.decode(tokens) + "\n"
    assert result.err == f"{folder}: best checkpoint, step 2\n"


def test_flags_set_the_length_and_the_sampling_of_the_text(train: Train, generate, small_data: SmallData) -> None:  # type: ignore[no-untyped-def]
    folder = train(*TEXT, *small_data("text"))

    def text(*flags: object) -> str:
        return generate(folder, "--length", 40, *flags).out

    assert len(text()) == 41
    assert text() == text("--seed", 0) == text("--temperature", 0.8) != text("--seed", 1)
    greedy = text("--temperature", 0)
    assert greedy == text("--beam", 1) and text("--beam", 3) == text("--beam", 3, "--seed", 1)
    assert greedy == text("--top-k", 1) == text("--top-p", 1e-6, "--seed", 5) != text("--top-k", 2)


def test_a_byte_model_accepts_multibyte_prompts(train: Train, generate, small_data: SmallData) -> None:  # type: ignore[no-untyped-def]
    folder = train(*TEXT, *small_data("text"), "data.tokens=bytes")
    assert generate(folder, "--prompt", "Grüße €", "--length", 3).out.startswith("Grüße €")


def test_text_is_streamed_until_standard_output_is_closed(
    train: Train, small_data: SmallData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*TEXT, *small_data("text"))
    reading, writing = os.pipe()
    text: list[bytes] = []

    def head() -> None:
        with os.fdopen(reading, "rb") as pipe:
            text.append(pipe.read(100))

    reader = threading.Thread(target=head)
    reader.start()
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        code = main(["generate", str(folder), "--prompt", "It was", "--length", "100000000"])
        monkeypatch.undo()
    reader.join()
    assert code == 0 and text[0].startswith(b"It was")
    assert capsys.readouterr().err == f"{folder}: best checkpoint, step 2\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--prompt", "€"], "--prompt: expected characters of the training text"),
        (["--prompt", ""], "--prompt: expected a text of at least one character, got an empty text"),
        (["--temperature", "-1"], "--temperature: expected a finite number of at least 0, got -1"),
        (["--temperature", "nan"], "--temperature: expected a finite number of at least 0, got nan"),
        (["--top-k", "0"], "--top-k: expected a whole number of at least 1, got 0"),
        (["--top-p", "0"], "--top-p: expected a number above 0 and at most 1, got 0"),
        (["--top-p", "1.5"], "--top-p: expected a number above 0 and at most 1, got 1.5"),
        (["--count", "2"], "--count: not supported for the task LanguageModeling, which generates text"),
        (["--out", "a.txt"], "--out: not supported for the task LanguageModeling, which generates text"),
    ],
)
def test_invalid_text_flags_are_rejected_with_a_one_line_error(
    words: list[str],
    line: str,
    train: Train,
    generate,  # type: ignore[no-untyped-def]
    small_data: SmallData,
) -> None:
    result = generate(train(*TEXT, *small_data("text")), *words)
    assert result.code == 2 and result.out == "" and len(result.err.splitlines()) == 1
    assert result.err.startswith(f"dltrain: {line}")


def test_text_flags_are_rejected_for_tasks_that_generate_examples(train: Train, generate) -> None:  # type: ignore[no-untyped-def]
    folder = train("model=vae", "data=digits")
    result = generate(folder, "--prompt", "It", "--temperature", 0)
    expected = "not supported for the task Variational, which generates examples"
    assert result.code == 2 and f"--prompt: {expected}\ndltrain: --temperature: {expected}" in result.err


@pytest.mark.parametrize("flags", [[], ["--prompt", "It"]])
def test_tasks_that_generate_nothing_are_rejected_with_or_without_a_text_flag(
    flags: list[str],
    train: Train,
    generate,  # type: ignore[no-untyped-def]
) -> None:
    result = generate(train("model=mlp", "data=digits"), *flags)
    expected = "generate: not supported for the task Classification, which generates no examples."
    assert result.code == 2 and result.err.startswith(f"dltrain: {expected}")


@pytest.mark.parametrize("tokens", ["words", "bpe", "wordpiece"])
def test_models_of_words_and_subwords_continue_a_prompt_after_the_training_text_was_deleted(
    tokens: str,
    train: Train,
    generate,  # type: ignore[no-untyped-def]
    tmp_path: Path,
) -> None:
    pytest.importorskip("tokenizers")
    text = tmp_path / "own.txt"
    text.write_text("It was the whale, the white whale.\n" * 60)
    small = ["data=text", f"data.path={text}", f"data.tokens={tokens}", "data.context_length=8", "data.max_words=290"]
    folder = train(*LSTM, *small)
    text.unlink()
    assert generate(folder, "--prompt", "the whale", "--length", 5).out.strip().startswith("the whale")
    unknown = generate(folder, "--prompt", "the shark", "--length", 5)
    if tokens != "bpe":
        assert unknown.code == 2 and len(unknown.err.splitlines()) == 1
        name = {"words": "words", "wordpiece": "word pieces"}[tokens]
        assert f"--prompt: expected {name} of the training text, got 'shark'" in unknown.err
    else:
        assert unknown.out.startswith("the shark")
