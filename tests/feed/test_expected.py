"""What the WAL has and no read shows yet is kept until it is seen, or nobody is there whom it concerns."""

from server.feed.expected import Expected

ANNE, BERT = "anne", "bert"


def test_the_highest_seq_counts_until_a_read_shows_it() -> None:
    expected = Expected()
    expected.note(ANNE, 9)
    expected.note(ANNE, 8)  # a row of the log that was moved to another partition
    expected.seen(ANNE, 8)
    assert expected.of(ANNE) == 9
    expected.seen(ANNE, 9)
    assert expected.of(ANNE) == 0


def test_of_users_who_are_gone_nothing_is_kept_for_long() -> None:
    expected = Expected()
    for user in (ANNE, BERT):
        expected.note(user, 9)
    for _ in range(3):
        expected.settle({ANNE})
    assert (expected.of(ANNE), expected.of(BERT)) == (9, 0)


def test_what_is_noted_meanwhile_outlives_a_comparison() -> None:
    expected = Expected()
    expected.settle(())
    expected.note(ANNE, 9)
    expected.settle(())
    assert expected.of(ANNE) == 9


def test_another_history_ends_all_of_it() -> None:
    expected = Expected()
    expected.note(ANNE, 9)
    expected.settle({ANNE})
    expected.note(BERT, 9)
    expected.forget()
    assert (expected.of(ANNE), expected.of(BERT)) == (0, 0)
