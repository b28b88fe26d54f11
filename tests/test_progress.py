"""What is seen of long steps: on a terminal, played as one plays it, and in a pipe."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from qin_zoo import progress
from qin_zoo.progress import Progress


class Screen:
    """A terminal's lines after what was written: returns, line feeds, and the steps upwards that tqdm makes."""

    def __init__(self, width: int, height: int):
        self.width, self.lines, self.row, self.column, self.height = width, [""], 0, 0, height

    def feed(self, text: str) -> None:
        place = 0
        while place < len(text):
            if text.startswith("\x1b[A", place):
                self.row, place = max(self.row - 1, len(self.lines) - self.height, 0), place + 3
                continue
            letter, place = text[place], place + 1
            if letter == "\r":
                self.column = 0
            elif letter == "\n":
                self._down()
            else:
                assert letter.isprintable(), f"the terminal is steered by {letter!r}"
                if self.column == self.width:
                    self.column = 0
                    self._down()
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + letter + line[self.column + 1 :]
                self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")


def on_a_terminal(arguments: list[str], width: int, height: int):
    """What a program writes on a terminal, chunk by chunk."""
    import fcntl
    import pty
    import struct
    import termios

    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    process = subprocess.Popen(arguments, stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    try:
        while chunk := os.read(ours, 1 << 16):
            yield chunk
    except OSError:  # it has ended
        pass
    finally:
        os.close(ours)
        assert process.wait(60) == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 5)])
def test_a_training_on_a_terminal_leaves_its_lines_and_no_bar(sample, tmp_path, width, height):
    small = ["epochs=3", "embedding_dim=4", "max_len=8", "batch_size=128", "num_layers=1", "eval_steps=16"]
    command = [sys.executable, "-m", "qin_zoo", "run", "QIN_sample", "--data", str(sample)]
    for change in (*small, f"model_root={tmp_path}", "early_stop_patience=9", "metrics=[AUC]"):
        command += ["--set", change]
    screen, bars, rest = Screen(width, height), 0, b""
    for chunk in on_a_terminal(command, width, height):
        whole, rest = (rest + chunk), b""
        while True:  # a letter may be cut in two
            try:
                text = whole.decode()
                break
            except UnicodeDecodeError:
                whole, rest = whole[:-1], whole[-1:] + rest
        if text.endswith(("\x1b", "\x1b[")):
            text, rest = text.rpartition("\x1b")[0], text[text.rindex("\x1b") :].encode() + rest
        screen.feed(text)
        shown = [line for line in screen.lines if "%|" in line]
        bars = max(bars, len(shown))
        assert len(shown) <= 2  # the epoch, and below it what is scored
        assert not any("train loss" in line and "%|" in line for line in screen.lines)
    assert bars
    left = [line.rstrip() for line in screen.lines]
    assert not any("it/s" in line or "%|" in line for line in left)
    told = [line for line in left if line.startswith("epoch") and "train loss" in line]
    assert len(told) == 4  # 72 steps, 16 between looks
    assert "" not in left[:-1]


def test_a_pipe_is_told_with_the_time_to_go(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    bar = Progress(total=200, desc="epoch 1/2", name="QIN_sample", initial=20)
    for count in (10, 20, 30, 40):
        bar.update(count)
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "QIN_sample: epoch 1/2: 50 of 200 batches, 25%, 02:35 to go",  # 30 in 31 s, 150 are left
        "QIN_sample: epoch 1/2: 120 of 200 batches, 60%, 00:49 to go",  # 100 in 62 s, 80 are left
    ]


def test_a_pipe_is_told_of_what_is_gone_through(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    assert list(Progress(iter("abc"), "reading", unit=" rows")) == ["a", "b", "c"]
    assert list(Progress("ab", "scoring", shown=False)) == ["a", "b"]
    assert capsys.readouterr().err.splitlines() == [f"reading: {n} rows" for n in (1, 2, 3)]


@pytest.mark.slow
def test_a_training_in_a_pipe_says_how_far_it_is(sample, tmp_path):
    """In a process of its own, whose half minutes are short."""
    program = (
        "from qin_zoo import progress; progress.SECONDS = 0.0\n"
        "from qin_zoo.cli import main\n"
        f"main(['run', 'QIN_sample', '--data', {str(sample)!r}, '--set', 'model_root={tmp_path}', '--set', 'epochs=1', "
        "'--set', 'embedding_dim=4', '--set', 'batch_size=1000'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    lines = [line.rpartition(", ")[0] for line in done.stderr.splitlines() if "epoch" in line]
    assert lines == [f"QIN_sample: epoch 1/1: {n} of 3 batches, {n / 3:.0%}" for n in (1, 2, 3)]
    assert "QIN_sample: scoring: 1 of 1 batches, 100%" in done.stderr
    assert "\r" not in done.stderr
