"""Progress: a bar on a terminal, a log line every ten seconds elsewhere."""

import logging

import pytest
from ippo_trainer.training.progress import ProgressBar


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ippo_trainer")


def test_one_line_per_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with ProgressBar(100, "collect", "conversations", terminal=False, clock=clock) as bar:
        for _ in range(100):
            clock.now += 1
            bar.update(1, kl=0.125)
    assert len(lines(caplog)) == 10
    assert lines(caplog)[0] == "collect: 10/100 conversations, 1/s, 1 min 30 s left, kl=0.125"
    assert lines(caplog)[-1] == "collect: 100/100 conversations, 1/s, kl=0.125"


def test_short_work_has_one_line(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with ProgressBar(2, "read", "files", terminal=False, clock=clock) as bar:
        for _ in range(2):
            clock.now += 0.5
            bar.update()
    assert lines(caplog) == ["read: 2/2 files, 2/s"]


def test_resumed_work_counts_from_where_it_was(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    bar = ProgressBar(7300, "improve", "updates", initial=50, terminal=False, clock=clock)
    clock.now += 10
    bar.update(10)
    assert lines(caplog) == ["improve: 60/7300 updates, 1/s, 2 h 00 min left"]


def test_an_error_in_the_loop_still_says_how_far_it_came(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        with ProgressBar(3, "work", terminal=False, clock=Clock()) as bar:
            bar.update()
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    assert lines(caplog) == ["work: 1/3 steps, 0/s"]


def test_a_bar_on_a_terminal(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture) -> None:
    with ProgressBar(4, "collect", "turns", terminal=True) as bar:
        bar.update(3, loss=0.5)
        bar.update(1)
    shown = capsys.readouterr().err
    assert "collect" in shown
    assert "4/4" in shown
    assert "loss=0.5" in shown
    assert lines(caplog) == []
