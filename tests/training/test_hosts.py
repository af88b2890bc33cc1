"""When a host counts as lost; `tests/hosts/test_training.py` loses real ones."""

from selfreward.training.hosts import SILENCE_S, START_S, Heard


def test_a_host_whose_count_stands_still_is_lost_and_named() -> None:
    heard = Heard([1, 2], now=0)
    for now in range(0, 50, 2):
        heard.hear(1, f"{now} n2", now)
        heard.hear(2, "7 n3", now)
    assert heard.lost(SILENCE_S) == ""
    heard.hear(1, "50 n2", 50)
    assert heard.lost(SILENCE_S + 1) == f"nothing was heard of host n3 for {SILENCE_S:g} s or more"


def test_several_lost_hosts_are_all_named() -> None:
    heard = Heard([1, 2], now=0)
    heard.hear(1, "1 n2", 0)
    heard.hear(2, "1 n3", 0)
    assert "of hosts n2, n3 for" in heard.lost(SILENCE_S + 1)


def test_a_host_that_starts_slowly_is_waited_for_and_one_that_never_does_is_lost() -> None:
    heard = Heard([1], now=0)
    assert heard.lost(SILENCE_S + 1) == ""
    assert f"host number 1 for {START_S:g} s" in heard.lost(START_S + 1)


def test_a_host_that_is_done_is_not_lost_however_long_the_others_take() -> None:
    heard = Heard([1], now=0)
    heard.hear(1, "8 n2", 10)
    heard.hear(1, "left n2", 12)
    assert heard.lost(100_000) == ""
