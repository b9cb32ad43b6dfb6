"""What a built file's answer is: its coding, its validator, how long it may be kept."""

import gzip
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.demo.assets import CODINGS, Answer, answer, carries_its_hash, choose, names, read

CONTENT = b"const answer = 42;\n" * 10
NAME = f"page-{sha256(CONTENT).hexdigest()[:16]}.js"

ALL = dict.fromkeys(CODINGS)
weights = st.one_of(st.none(), st.sampled_from(["0", "0.0", "0.001", "0.5", "0.999", "1", "1.000"]))
wishes = st.dictionaries(st.sampled_from([*CODINGS, "*", "deflate", "zstd"]), weights)
offers = st.sets(st.sampled_from(["br", "gzip"])).map(
    lambda some: {c: None for c in CODINGS if c in some or c == "identity"}
)


def header(wished: dict[str, str | None]) -> str:
    return ", ".join(coding if weight is None else f"{coding};q={weight}" for coding, weight in wished.items())


def put(folder: Path, name: str = NAME, content: bytes = CONTENT) -> None:
    (folder / name).write_bytes(content)
    (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    (folder / f"{name}.br").write_bytes(b"as if by Brotli")


def ask(folder: Path, accept_encoding: str | None = None, if_none_match: str | None = None) -> Answer:
    (asset,) = read(folder).values()
    return answer(asset, accept_encoding, if_none_match)


# ---- codings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept_encoding", "coding"),
    [
        (None, "identity"),
        ("", "identity"),
        ("gzip, deflate, br, zstd", "br"),
        ("gzip, deflate", "gzip"),
        ("deflate", "identity"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("*", "br"),
        ("br;q=0.5, gzip;q=0.8", "gzip"),
        ("br;q=0.5,gzip;q=0.5", "br"),
        ("br;q=0, *", "gzip"),
        ("gzip;q=0.001", "gzip"),
        ("gzip ; q=0.2 , identity ; q=0.3", "identity"),
        ("br;q=0", "identity"),
        ("identity;q=0", None),
        ("identity;q=0, br", "br"),
        ("*;q=0", None),
        ("*;q=0, identity", "identity"),
        ("br;q=high, gzip;q=2, ;;, é", "identity"),
    ],
)
def test_the_coding_is_what_the_request_asks_for(accept_encoding: str | None, coding: str | None) -> None:
    assert choose(accept_encoding, ALL) == coding


@given(wishes, offers)
def test_no_coding_is_sent_that_was_refused_or_not_offered_or_that_another_one_outweighs(
    wished: dict[str, str | None], offered: dict[str, None]
) -> None:
    def weight(coding: str) -> float:
        named = coding if coding in wished else "*"
        if named in wished:
            return float(wished[named] or 1)
        return 1e-6 if coding == "identity" else 0

    chosen = choose(header(wished), offered)
    heaviest = max(weight(coding) for coding in offered)
    assert (chosen is None) == (heaviest == 0)
    if chosen is not None:
        assert chosen in offered
        assert weight(chosen) == heaviest


@given(st.text("brgzip*;=q01., \t-é"))
def test_whatever_the_header_says_there_is_a_decision(accept_encoding: str) -> None:
    assert choose(accept_encoding, ALL) in (*CODINGS, None)


def test_a_copy_that_the_build_did_not_make_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    found = ask(tmp_path, "br, gzip")
    assert (found.status, found.content, "Content-Encoding" in found.headers) == (200, CONTENT, False)


def test_each_coding_has_its_content_and_an_entity_tag_of_its_own(tmp_path: Path) -> None:
    put(tmp_path)
    found = {coding: ask(tmp_path, coding) for coding in CODINGS}
    assert gzip.decompress(found["gzip"].content) == found["identity"].content == CONTENT
    assert found["br"].content == b"as if by Brotli"
    assert len({each.headers["ETag"] for each in found.values()}) == len(CODINGS)
    for coding, each in found.items():
        assert each.headers.get("Content-Encoding", "identity") == coding
        assert each.headers["Content-Type"] == "text/javascript; charset=utf-8"


def test_every_answer_says_that_it_depends_on_the_coding(tmp_path: Path) -> None:
    put(tmp_path)
    answers = [ask(tmp_path, "br"), ask(tmp_path), ask(tmp_path, None, "*"), ask(tmp_path, "*;q=0")]
    assert [each.status for each in answers] == [200, 200, 304, 406]
    assert {each.headers["Vary"] for each in answers} == {"Accept-Encoding"}


def test_who_accepts_nothing_is_told_what_there_is(tmp_path: Path) -> None:
    put(tmp_path)
    found = ask(tmp_path, "*;q=0")
    assert found.content.decode() == "Accept one of these content codings: br, gzip, identity.\n"
    assert found.headers["Cache-Control"] == "no-store"


# ---- validators ----------------------------------------------------------------------------------------------------

TAG = '"0123"'


@pytest.mark.parametrize(
    ("if_none_match", "named"),
    [
        (TAG, True),
        (f"W/{TAG}", True),
        (f'"x", W/"y" ,{TAG}', True),
        (f'"a,b", {TAG}', True),
        ("*", True),
        (" * ", True),
        ('"*"', False),
        ('"012"', False),
        ("0123", False),
        ('"x0123"', False),
        (f'"{TAG}', False),  # not well-formed
        ("", False),
    ],
)
def test_an_entity_tag_is_found_by_weak_comparison(if_none_match: str, named: bool) -> None:
    assert names(if_none_match, TAG) == named


@pytest.mark.parametrize("coding", CODINGS)
def test_what_did_not_change_is_not_sent_again_and_another_coding_is(tmp_path: Path, coding: str) -> None:
    put(tmp_path)
    tags = {other: ask(tmp_path, other).headers["ETag"] for other in CODINGS}
    found = ask(tmp_path, coding, tags[coding])
    assert (found.status, found.content) == (304, b"")
    assert found.headers.keys() == {"Vary", "Cache-Control", "ETag"}
    others = ", ".join(tag for other, tag in tags.items() if other != coding)
    assert ask(tmp_path, coding, others).status == 200


def test_a_changed_file_has_another_entity_tag(tmp_path: Path) -> None:
    put(tmp_path)
    before = ask(tmp_path).headers["ETag"]
    put(tmp_path, content=b"changed")
    assert ask(tmp_path, None, before).status == 200


# ---- how long ------------------------------------------------------------------------------------------------------


def test_a_file_whose_name_carries_its_hash_is_immutable_for_a_year(tmp_path: Path) -> None:
    put(tmp_path)
    assert ask(tmp_path).headers["Cache-Control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    ("name", "content"),
    [(NAME, b"edited"), ("page.js", CONTENT), ("page-0123456789abcdef.js", CONTENT), (f"{NAME}.js", CONTENT)],
    ids=["edited after the build", "no hash", "another hash", "the hash is not where it belongs"],
)
def test_every_other_file_is_asked_for_again(tmp_path: Path, name: str, content: bytes) -> None:
    put(tmp_path, name, content)
    assert ask(tmp_path).headers["Cache-Control"] == "no-cache"


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_a_name_carries_the_hash_of_one_content(content: bytes, other: bytes) -> None:
    name = f"a-{sha256(content).hexdigest()[:16]}.css"
    assert carries_its_hash(name, other) == (content == other)
