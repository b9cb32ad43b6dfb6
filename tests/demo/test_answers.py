"""What the assistant says, and how it types it."""

from hypothesis import given
from hypothesis import strategies as some

from server.demo.assistant import answers
from server.demo.assistant.pace import THOUGHT, typed


@given(some.text(), some.text())
def test_the_pieces_of_a_text_are_the_text(text: str, seed: str) -> None:
    pieces = list(typed(text, seed))
    assert "".join(piece for _, piece in pieces) == text
    assert all(pause >= 0 and piece for pause, piece in pieces)
    assert pieces == list(typed(text, seed))


@given(some.text(min_size=1))
def test_the_assistant_thinks_before_it_types(text: str) -> None:
    assert next(typed(text, ""))[0] == THOUGHT


def test_every_answer_takes_some_seconds_and_none_takes_a_minute() -> None:
    for topic in answers.TOPICS:
        for text in topic.texts:
            assert 3 < sum(pause for pause, _ in typed(text, "")) < 60


def test_a_question_is_answered_by_its_words() -> None:
    assert answers.choose("How does this WORK?", 0).text == answers.HOW.strip()
    assert answers.choose("tell me a story about bread", 0).text == answers.STORY.strip()
    assert answers.choose("Shower?", 0).text == answers.UNKNOWN[0].strip()
    assert answers.choose("", 0).text == answers.UNKNOWN[0].strip()


def test_who_asks_again_gets_the_next_text() -> None:
    given = [answers.choose("Something to eat?", again).text for again in range(3)]
    assert given == [answers.RECIPE.strip(), answers.TEA.strip(), answers.RECIPE.strip()]
    assert answers.choose("What is love?", 7).text == answers.UNKNOWN[1].strip()


def test_every_topic_that_the_assistant_names_is_one_of_its_topics() -> None:
    for text in (*answers.UNKNOWN, answers.HELLO):
        named = text.split("**")[1::2]
        assert len(named) > 1
        known = [answers.choose(word, 0).text for word in named if word != "same row"]
        assert not set(known) & set(answers.UNKNOWN)


def test_the_assistant_fails_only_when_it_is_asked_to() -> None:
    assert answers.choose("Please fail", 0).breaks_off
    assert [topic.breaks_off for topic in answers.TOPICS].count(True) == 1
