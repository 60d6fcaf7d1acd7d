"""Console output: messages, progress, tables and the log file."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
import time
from pathlib import Path

import pytest

from dltrain import redaction
from dltrain.loggers.console import Console
from dltrain.loggers.formatting import format_duration, format_rate

SESSION = """
    import time
    from dltrain.loggers.console import Console
    console = Console()
    console.start("lstm on digits", {"model": "LSTM, 61,706 parameters", "run folder": "outputs/[a]"})
    for step in range(1, 41):
        console.progress(step / 20, 2, step, 40, f"loss {1 / step:.4g}", "812/s", "left 4m 05s")
        time.sleep(0.01)
        if step == 10:
            console.warning("the disk is [nearly] full")
    console.table("test", ["method", "mse"], [["lstm", "0.25"], ["naive", "1.5"]], "lower is better")
    console.error(["data.path: expected a file", "model.num_layers: expected a number"])
"""
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLORS = re.compile(r"\x1b\[[0-9;]*(3[0-7]|9[0-7]|38;[0-9;]*)m")


def start_child(code, stderr, environment):
    """Start a Python process that runs `code`; variables in `environment` replace the defaults."""
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")}
    environment = clean | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, env=environment)


def run_on_terminal(code, width=100, **environment):
    """Return what a child process writes to standard error, which is a terminal."""
    parent_end, child_end = pty.openpty()
    fcntl.ioctl(child_end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    with start_child(code, child_end, environment) as process:
        os.close(child_end)
        written = b""
        try:
            while part := os.read(parent_end, 65536):
                written += part
        except OSError:
            pass  # Linux reports a closed terminal as an error
        assert process.stdout.read() == b""
    os.close(parent_end)
    assert process.returncode == 0, written
    return written.decode()


def run_with_pipes(code, **environment):
    """Return what a child process writes to standard output and standard error, which are pipes."""
    with start_child(code, subprocess.PIPE, environment) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    return out.decode(), err.decode()


def screen(written):
    """Return the final lines on the screen, after carriage returns and erasures."""
    lines = []
    for line in written.replace("\r\n", "\n").split("\n"):
        cells = ""
        for part in line.split("\r"):
            at = 0
            for number, piece in enumerate(part.split("\x1b[K")):
                cells = cells[:at] if number else cells
                text = CODES.sub("", piece)
                cells = cells[:at] + text + cells[at + len(text) :]
                at += len(text)
        lines.append(cells.rstrip())
    return lines


def report_progress(console, done=0.5, epochs=9, step=1, steps=90):
    console.progress(done, epochs, step, steps, "loss 0.5", "12/s")


def test_a_pipe_gets_plain_text_with_one_progress_line_per_epoch():
    out, err = run_with_pipes(SESSION)
    assert out == ""
    assert err.removesuffix("\n").split("\n") == [
        "lstm on digits",
        "  model       LSTM, 61,706 parameters",
        "  run folder  outputs/[a]",
        "warning: the disk is [nearly] full",
        "epoch 1/2  step 20/40  loss 0.05  812/s  left 4m 05s",
        "epoch 2/2  step 40/40  loss 0.025  812/s  left 4m 05s",
        "test",
        "method   mse",
        "------  ----",
        "lstm    0.25",
        "naive    1.5",
        "lower is better",
        "error: data.path: expected a file",
        "       model.num_layers: expected a number",
    ]


@pytest.mark.parametrize("environment", [{"FORCE_COLOR": "1"}, {"CLICOLOR_FORCE": "1"}])
def test_a_pipe_never_gets_escape_codes_or_carriage_returns(environment):
    _, err = run_with_pipes(SESSION, **environment)
    assert "\x1b" not in err
    assert "\r" not in err


def test_escape_codes_in_messages_and_tables_are_removed():
    code = """
        from dltrain.loggers.console import Console
        Console().info("a \\x1b[31mred\\x1b[0m word\\r and\\ttab")
        Console().table("", ["\\x1b[1mhead"], [["\\x1b[31mcell"]])
    """
    _, err = run_with_pipes(code)
    assert err == "a red word and\ttab\nhead\n----\ncell\n"


def test_output_to_a_pipe_imports_neither_rich_nor_torch_nor_numpy():
    code = "import sys; from dltrain.loggers.console import Console; Console().info('a')\n"
    code += "print(sorted({'rich', 'torch', 'numpy'} & set(sys.modules)))"
    out, _ = run_with_pipes(code)
    assert out == "[]\n"


def test_a_terminal_shows_a_live_line_that_messages_do_not_break():
    written = run_on_terminal(SESSION)
    lines = screen(written)
    assert lines[:4] == [
        "lstm on digits",
        "  model       LSTM, 61,706 parameters",
        "  run folder  outputs/[a]",
        "warning: the disk is [nearly] full",
    ]
    assert "epoch" not in "\n".join(lines)
    assert [line.strip() for line in lines[-3:]] == [
        "error: data.path: expected a file",
        "model.num_layers: expected a number",
        "",
    ]
    assert "\rs" not in written
    assert re.search(r"step \d+/40  loss [\d.]+  812/s  left 4m 05s\x1b\[K", written)
    assert COLORS.search(written)


def test_the_live_line_is_redrawn_at_most_ten_times_per_second():
    code = """
        import time
        from dltrain.loggers.console import Console
        now = 0.0
        time.monotonic = lambda: now
        console = Console()
        for step in range(1000):
            now = step / 1000
            console.progress(0.5, 1, step, 10**9, "loss 0.5", "12/s")
    """
    assert run_on_terminal(code).count("epoch 1/1") == 10


@pytest.mark.parametrize("width", [20, 80, 200])
def test_the_live_line_is_truncated_to_the_width_of_the_terminal(width):
    code = """
        from dltrain.loggers.console import Console
        Console().progress(0.5, 10, 420, 1400, "loss 0.312", "accuracy" * 5 + " 0.91", "left 4m 05s")
    """
    line = CODES.sub("", run_on_terminal(code, width=width)).strip("\r")
    assert len(line) <= width - 1
    assert ("left 4m 05s" in line) == (width == 200)
    assert ("━" in line) == (width == 200)


def test_no_color_removes_the_colors_but_not_the_live_line():
    written = run_on_terminal(SESSION, NO_COLOR="1")
    assert not COLORS.search(written)
    assert "\r" in written.replace("\r\n", "\n")


def test_a_dumb_terminal_gets_plain_lines():
    written = run_on_terminal(SESSION, TERM="dumb").replace("\r\n", "\n")
    assert "\x1b" not in written
    assert "\r" not in written
    assert written == run_with_pipes(SESSION)[1]


def test_a_results_table_goes_to_standard_output_at_full_width():
    code = """
        from dltrain.loggers.console import Console
        Console().info("note")
        Console().table("", ["folder", "mse"], [["x" * 300, "0.5"], ["y", "12.25"]], results=True)
    """
    out, err = run_with_pipes(code, COLUMNS="40")
    assert err == "note\n"
    assert out.splitlines() == [
        "folder" + " " * 296 + "  mse",
        "-" * 300 + "  -----",
        "x" * 300 + "    0.5",
        "y" + " " * 299 + "  12.25",
    ]


def test_characters_outside_the_streams_encoding_are_escaped():
    code = "from dltrain.loggers.console import Console; c = Console(); c.info('Größe')"
    code += "; c.table('', ['ß'], [['é']], results=True)"
    out, err = run_with_pipes(code, PYTHONIOENCODING="ascii")
    assert err == "Gr\\xf6\\xdfe\n"
    assert out.splitlines()[::2] == ["\\xdf", "\\xe9"]


def test_closing_the_terminal_does_not_stop_the_process(tmp_path):
    code = f"""
        import pathlib, sys
        from dltrain.loggers.console import Console
        console = Console()
        console.open_log(pathlib.Path({str(tmp_path / "train.log")!r}))
        console.progress(0.1, 2, 1, 9, "loss 0.5", "12/s")
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(3):
            console.info(f"message {{number}}")
            console.progress(2, 2, 9, 9, "loss 0.5", "12/s")
        print("done", flush=True)
    """
    parent_end, child_end = pty.openpty()
    command = [sys.executable, "-c", textwrap.dedent(code)]
    pipe, environment = subprocess.PIPE, os.environ | {"TERM": "xterm"}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=child_end, env=environment) as process:
        os.close(child_end)
        assert process.stdout.readline() == b"ready\n"
        os.close(parent_end)
        out, _ = process.communicate(b"\n")
    assert (process.returncode, out) == (0, b"done\n")
    assert (tmp_path / "train.log").read_text().count("message") == 3


def test_the_log_file_has_every_message_with_its_time(tmp_path):
    code = SESSION.replace(
        "console = Console()",
        f"console = Console(); import pathlib; console.open_log(pathlib.Path({str(tmp_path / 'train.log')!r}))",
    )
    _, err = run_with_pipes(code)
    written = (tmp_path / "train.log").read_text()
    lines = [re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.*)", line)[1] for line in written.splitlines()]
    assert lines == err.splitlines()
    run_on_terminal(code)
    again = (tmp_path / "train.log").read_text().removeprefix(written)
    assert [line[20:] for line in again.splitlines()] == lines


def test_nothing_is_logged_after_the_log_file_is_closed(tmp_path, capsys):
    console = Console()
    console.open_log(tmp_path / "a.log")
    console.info("one")
    console.open_log(tmp_path / "b.log")
    console.info("two")
    console.close_log()
    console.info("three")
    assert [(tmp_path / name).read_text()[20:] for name in ("a.log", "b.log")] == ["one\n", "two\n"]
    assert capsys.readouterr().err == "one\ntwo\nthree\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_messages_are_still_printed_when_the_log_file_cannot_be_written(capsys):
    console = Console()
    console.open_log(Path("/dev/full"))
    console.info("one")
    console.info("two")
    console.close_log()
    first, warning, second = capsys.readouterr().err.splitlines()
    assert (first, second) == ("one", "two")
    assert warning.startswith("warning: train.log ends here: ")


def test_secrets_are_masked_on_screen_and_in_the_log(tmp_path, capsys):
    redaction.register_overrides(["data.api_key=Hunter2isMyPassword"])
    try:
        console = Console()
        console.open_log(tmp_path / "train.log")
        console.info("key Hunter2isMyPassword")
        console.table("", ["Hunter2isMyPassword"], [["x"]])
        console.close_log()
    finally:
        redaction.clear()
    for text in (capsys.readouterr().err, (tmp_path / "train.log").read_text()):
        assert "Hunter2" not in text and text.count("***") == 2


def test_a_long_epoch_writes_a_progress_line_every_minute(monkeypatch, capsys):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    console = Console()
    console.start("", {})
    for _ in range(300):
        report_progress(console)
        now += 1
    assert capsys.readouterr().err.count("epoch 1/9") == 4


@pytest.mark.parametrize("steps_of", ["epoch", "run"])
def test_each_epoch_has_one_line_whether_steps_are_counted_per_epoch_or_per_run(steps_of, capsys):
    console = Console()
    for step in range(1, 31):
        epoch = (step - 1) // 10 + 1
        done, steps = (step - (epoch - 1) * 10, 10) if steps_of == "epoch" else (step, 30)
        report_progress(console, step / 10, epochs=3, step=done, steps=steps)
        if done == steps:
            report_progress(console, step / 10, epochs=3, step=done, steps=steps)
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_run_resumed_within_an_epoch_writes_its_first_line_at_the_end_of_the_epoch(capsys):
    console = Console()
    report_progress(console, 2.1)
    report_progress(console, 2.2, step=2)
    assert capsys.readouterr().err == ""
    report_progress(console, 3.1, step=3)
    assert capsys.readouterr().err.startswith("epoch 3/9  step 3/90  loss 0.5  12/s")


def test_a_second_run_with_the_same_console_resets_progress(capsys):
    console = Console()
    for _ in range(2):
        console.start("", {})
        report_progress(console, 9, epochs=9, step=90)
        console.close_log()
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (4.24, "4.2s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (65, "1m 05s"),
        (3599.7, "1h 00m"),
        (7384, "2h 03m"),
        (86400 * 3 + 4 * 3600, "3d 04h"),
        (float("nan"), "?"),
        (float("inf"), "?"),
        (-1, "?"),
    ],
)
def test_durations_are_formatted_with_at_most_two_units(seconds, text):
    assert format_duration(seconds) == text


def test_rates_have_three_digits_or_all_digits_of_the_integer_part():
    assert [format_rate(x) for x in (0.527, 12.34, 99.96, 812.3, 12345.6)] == [
        "0.527/s",
        "12.3/s",
        "100/s",
        "812/s",
        "12,346/s",
    ]
