"""A text in parts is the text: at every offset, after every append."""

from hypothesis import given
from hypothesis import strategies as st

from server.streams.text import PARTS, Text

TEXTS = st.text("abä🙂\u0301", max_size=6)


def common(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def text_of(parts: list[str], *, joins: bool = False) -> Text:
    text = Text(parts[0] if parts else "")
    for part in parts[1:]:
        text.append(part)
        if joins:
            text.whole()
    return text


@given(st.lists(TEXTS, max_size=3 * PARTS), st.booleans(), st.integers(0, 300))
def test_parts_make_a_text_whose_rest_is_known_from_every_offset(parts: list[str], joins: bool, offset: int) -> None:
    text, whole = text_of(parts, joins=joins), "".join(parts)
    assert (text.end, text.size) == (len(whole), len(whole.encode()))
    assert text.after(offset) == whole[offset:]
    assert text.after(max(0, text.end - len(parts[-1])) if parts else 0) == (parts[-1] if parts else "")
    assert text.whole() == whole


@given(st.lists(TEXTS, max_size=5), st.integers(0, 40), TEXTS)
def test_an_append_that_fits_adds_what_is_new_and_another_one_nothing(parts: list[str], offset: int, text: str) -> None:
    there = "".join(parts)
    news = text_of(parts).news(offset, text)
    if news is None:
        assert offset > len(there) or not (text.startswith(there[offset:]) or there[offset:].startswith(text))
    else:
        assert (there + news)[offset : offset + len(text)] == text
        assert (there + news).startswith(there)
        assert len(there + news) == max(len(there), offset + len(text))


@given(st.lists(TEXTS, max_size=5), st.text("abä🙂", max_size=20))
def test_what_two_texts_have_in_common_is_found(parts: list[str], other: str) -> None:
    for each in (other, "".join(parts) + other, "".join(parts)[:3] + other):
        assert text_of(parts).common(each) == common("".join(parts), each)
