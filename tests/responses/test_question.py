"""Spellings of a question share a response, different questions never do, and what is too large is refused."""

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.responses import question
from server.responses.question import EVERYBODY, InputError, Key, canonical, check_lease, check_response, key

texts = st.text(st.characters(codec="utf-8"), max_size=40)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


def of(text: str, *, model: str = "model-1", tier: str = "core", scope: str = EVERYBODY) -> Key:
    return key(text, model=model, tier=tier, scope=scope)


@pytest.mark.parametrize(
    "spelling",
    [
        "What is a feed?",
        "what IS a feed?",
        "  What\tis\r\na   feed? ",
        "What is\u00a0a\u2003feed?",
        "Ｗｈａｔ is a feed?",
        "What is a \ufb01eed?".replace("\ufb01e", "fe"),
    ],
)
def test_case_white_space_and_compatibility_characters_do_not_count(spelling: str) -> None:
    assert canonical(spelling) == "what is a feed?"
    assert of(spelling) == of("What is a feed?")


@pytest.mark.parametrize(
    ("one", "other"),
    [("Straße", "STRASSE"), ("ﬁle", "FILE"), ("x²", "X2"), ("e\u0301te\u0301", "ÉTÉ"), ("ΌΣΟΣ", "όσος"), ("ẞ", "ss")],
)
def test_letters_are_compared_as_unicode_folds_them(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize("other", ["What is a feed", "What is a fééd?", "a feed is What?", "What is afeed?"])
def test_punctuation_accents_and_order_count(other: str) -> None:
    assert of(other) != of("What is a feed?")


@given(texts)
@example("\u0345\u0301")
@example("\u00b4a")
@example("\u1fb3 \u03b1\u0345")
def test_the_canonical_form_of_a_canonical_form_is_itself(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


@given(texts)
def test_no_case_of_a_text_makes_it_another_question(text: str) -> None:
    assert canonical(text.casefold()) == canonical(text)


@given(st.tuples(names, names, names, names), st.tuples(names, names, names, names))
@example(("ab", "c", "t", "q"), ("a", "bc", "t", "q"))
@example(("a", "m", "t", "q"), ("A", "m", "t", "q"))
def test_two_keys_are_one_only_if_all_that_they_are_made_of_is_one(
    one: tuple[str, str, str, str], other: tuple[str, str, str, str]
) -> None:
    keys, parts = [], []
    for scope, model, tier, text in (one, other):
        if not canonical(text):
            return
        keys.append(of(text, model=model, tier=tier, scope=scope))
        parts.append((scope, model, tier, canonical(text)))
    assert (keys[0] == keys[1]) == (parts[0] == parts[1])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"text": " \u2003\n"}, "The question is empty."),
        ({"text": "x" * (32 * 1024 + 1)}, "The question has 32,769 bytes"),
        ({"text": "é" * (16 * 1024 + 1)}, "The question has 32,770 bytes"),
        ({"text": "half \ud800"}, "The question contains half of a surrogate pair"),
        ({"text": "x", "scope": ""}, "The scope must be a text"),
        ({"text": "x", "tier": "a\0b"}, "The tier must be a text"),
        ({"text": "x", "model": "m" * 201}, "The model has 201 bytes"),
        ({"text": "x", "scope": "\udfff"}, "The scope contains half"),
    ],
)
def test_what_cannot_be_a_key_is_refused_with_a_sentence(given: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        of(**given)


def test_the_largest_question_is_taken() -> None:
    assert len(of("é" * (16 * 1024)).hash) == 64


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"text": "x" * (256 * 1024 + 1)}, "The response has 262,145 bytes"),
        ({"text": "a\0b"}, "The response contains U"),
        ({"ttl": 0.5}, "ttl must be from 1 to 2,592,000"),
        ({"ttl": float("nan")}, "ttl must be"),
        ({"ttl": float("inf")}, "ttl must be"),
        ({"tokens": -1}, "tokens must be"),
        ({"tokens": 2**31}, "tokens must be"),
        ({"cost": Decimal("-0.1")}, "cost must be"),
        ({"cost": Decimal("NaN")}, "cost must be"),
        ({"cost": Decimal("999999.999999999")}, "cost must be"),
        ({"cost": Decimal("1e99999")}, "cost must be"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_a_sentence(wrong: dict[str, object], sentence: str) -> None:
    given = {"text": "hello", "ttl": 60.0, "tokens": 1, "cost": Decimal(1), **wrong}
    with pytest.raises(InputError, match=sentence):
        check_response(**given)  # type: ignore[arg-type]  # as a caller without types would


def test_a_cost_is_rounded_to_what_the_column_holds() -> None:
    assert check_response("x", 60, 0, Decimal("0.000000125")) == Decimal("0.00000012")
    assert check_response("x", 60, 0, Decimal("0e-50")) == 0


@pytest.mark.parametrize(("lease", "wait"), [(0.5, 0.0), (601.0, 0.0), (60.0, -1.0), (60.0, 61.0), (float("nan"), 0.0)])
def test_leases_and_waits_are_bounded(lease: float, wait: float) -> None:
    with pytest.raises(InputError):
        check_lease(lease, wait)
    check_lease(question.LEASE_SECONDS[1], question.WAIT_SECONDS)
