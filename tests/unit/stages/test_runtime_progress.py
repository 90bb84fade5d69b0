"""Progress: a bar on a terminal, a log line every ten seconds elsewhere."""

import logging

import pytest
from ippo_trainer.stages.progress import Progress, progress


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
    with Progress(100, "collect", "conversations", terminal=False, clock=clock) as bar:
        for _ in range(100):
            clock.now += 1
            bar.update(1, kl=0.125)
    assert len(lines(caplog)) == 10
    assert lines(caplog)[0] == "collect: 10/100 conversations, 1/s, 1 min 30 s left, kl=0.125"
    assert lines(caplog)[-1] == "collect: 100/100 conversations, 1/s, kl=0.125"


def test_short_work_has_one_line(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    seen = []
    for item in Progress(["a", "b"], "read", "files", terminal=False, clock=clock):
        clock.now += 0.5
        seen.append(item)
    assert seen == ["a", "b"]
    assert lines(caplog) == ["read: 2/2 files, 2/s"]


def test_resumed_work_counts_from_where_it_was(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    bar = Progress(7300, "improve", "updates", initial=50, terminal=False, clock=clock)
    clock.now += 10
    bar.update(10)
    assert lines(caplog) == ["improve: 60/7300 updates, 1/s, 2 h 00 min left"]


def test_without_a_total_there_is_no_time_left(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    for _ in Progress(iter("abc"), "scan", "rows", terminal=False, clock=clock):
        clock.now += 20
    assert lines(caplog) == ["scan: 1 rows, 0.05/s", "scan: 2 rows, 0.05/s", "scan: 3 rows, 0.05/s"]


def test_an_error_in_the_loop_still_says_how_far_it_came(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        for item in Progress([1, 2, 3], "work", terminal=False, clock=Clock()):
            if item == 2:
                raise ValueError(item)

    with pytest.raises(ValueError, match="2"):
        broken()
    assert lines(caplog) == ["work: 1/3 steps, 0/s"]


def test_a_bar_on_a_terminal(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture) -> None:
    with Progress(4, "collect", "turns", terminal=True) as bar:
        bar.update(3, loss=0.5)
        bar.update(1)
    shown = capsys.readouterr().err
    assert "collect" in shown
    assert "4/4" in shown
    assert "loss=0.5" in shown
    assert lines(caplog) == []


def test_a_number_can_only_be_counted() -> None:
    with pytest.raises(TypeError, match="only counts"):
        next(iter(progress(3, "x")))
