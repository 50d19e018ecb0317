"""The live view: what it shows in a terminal, what it leaves in a file, and how messages get past it."""

import io
import re
import sys

import pytest

from kedge.runs.progress import ProgressBar, say
from kedge.training.ppo.report import live_lines

METRICS = {
    "objective/scores": 0.86214,
    "objective/kl": 4.2137,
    "completions/mean_length": 38.25,
    "val/explained_variance": -0.6081,
    "policy/grad_norm": 3.0,
    "time/generate": 12.345,
    "time/reward": 0.0512,
    "time/estimate": 1.0812,
    "time/update": 123.4,
    "time/other": 0.0123,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """``terminal()``: stderr is a terminal of 80 columns from now on; gives a function that reads its lines."""

    def start():
        for name, value in {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}.items():
            monkeypatch.setenv(name, value)
        file = Terminal()
        monkeypatch.setattr(sys, "stderr", file)
        text = lambda: re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())  # noqa: E731
        return lambda: [line.rstrip() for line in re.split(r"[\r\n]+", text())]

    return start


def test_a_silent_bar_says_nothing(capsys):
    with ProgressBar("ppo", 3, enabled=False) as bar:
        bar.advance("line", loss=1.0)
    assert capsys.readouterr() == ("", "")


def test_a_file_gets_the_bar_once_and_no_lines(capsys):
    with ProgressBar("ppo", 3) as bar:
        for loss in (3.0, 2.0, 1.25):
            bar.advance("under the bar", loss=loss)
    out, err = capsys.readouterr()
    assert (out, err.count("ppo")) == ("", 1)
    assert "3/3" in err
    assert "loss 1.25" in err
    assert "under" not in err
    assert "\x1b" not in err


def test_a_terminal_gets_bar_and_lines(terminal):
    read = terminal()
    with ProgressBar("PPO", 4, start=1) as bar:
        bar.advance(*live_lines(METRICS))
        bar.advance(*live_lines(METRICS | {"objective/kl": 5.5}))
    shown = read()
    assert "3/4" in shown[-4]
    assert shown[-3] == "  score 0.862   kl 5.5   length 38.2   explained variance -0.608"
    assert shown[-2] == "  seconds: generate 12.35  reward 0.05  estimate 1.08  update 123  other 0.01"
    assert max(map(len, shown)) <= 80


def test_without_a_critic_there_is_no_explained_variance():
    metrics = {name: value for name, value in METRICS.items() if "variance" not in name}
    assert live_lines(metrics)[0] == "  score 0.862   kl 4.21   length 38.2"


def test_messages_stand_above_the_bar(terminal):
    read = terminal()
    with ProgressBar("PPO", 4) as bar:
        bar.advance("  score 1")
        bar.say("kl: rises [bold] 3 of 4")
        say("reward " * 30)
        print("from anybody", file=sys.stderr)
        bar.advance("  score 2")
    shown = read()
    message, anybody = shown.index("kl: rises [bold] 3 of 4"), shown.index("from anybody")
    assert " ".join(shown[message + 1 : anybody]).count("reward") == 30
    assert max(map(len, shown)) <= 80
    assert any("2/4" in line for line in shown[anybody:])
    assert shown[-2] == "  score 2"


def test_messages_without_a_terminal_are_plain_lines(capsys):
    with ProgressBar("PPO", 4) as bar:
        bar.say("a " * 100)
        bar.advance()
    assert capsys.readouterr().err.startswith("a " * 100 + "\n")


def test_others_than_the_first_process_do_not_speak(capsys, monkeypatch):
    monkeypatch.setattr("kedge.runs.progress.join", lambda: type("Second", (), {"leads": False}))
    say("hello")
    assert capsys.readouterr().err == ""


def test_time_left_of_long_steps(capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("rich.console.monotonic", lambda: now[0])
    with ProgressBar("PPO", 10) as bar:
        for _ in range(3):
            now[0] += 90.0
            bar.advance()
    assert "0:04:30 0:10:30" in capsys.readouterr().err  # seven steps more, at 90 seconds each
