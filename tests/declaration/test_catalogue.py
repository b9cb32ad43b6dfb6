"""What is read of the catalogue, on every PostgreSQL that is supported."""

from server.declaration.catalogue import Facts, Type
from server.declaration.model import Table as Name
from tests.declaration.conftest import HERE, read_facts
from tests.support.cluster import Cluster


async def odd_of(cluster: Cluster) -> Facts:
    return await read_facts(cluster, (HERE / "odd.sql").read_text())


async def test_types_have_their_schema_and_no_length_and_a_domain_is_the_type_beneath(every_postgres: Cluster) -> None:
    notes = (await odd_of(every_postgres)).table[Name("app", "notes")].column
    text = Type("text", "b")
    assert notes["heading"].type == text
    assert notes["heading"].domain == "app.heading"
    assert notes["titles"].type == Type("text[]", "b", text) or notes["titles"].type.element == text
    assert notes["mood"].type == Type("app.mood", "e")
    assert notes["moods"].type == Type("app.mood[]", "b", Type("app.mood", "e"))
    assert notes["email"].type == Type("public.citext", "b")
    assert notes["price"].type == Type("numeric", "b")
    assert notes["at"].type == Type("timestamp without time zone", "b")
    assert notes["pair"].type == Type("app.pair", "c")
    assert notes["length"].generated == "s"
    assert notes["odd name"].name == "odd name"


async def test_keys_and_references_are_known(every_postgres: Cluster) -> None:
    facts = await odd_of(every_postgres)
    pairs, numbers, parts = (facts.table[Name("app", name)] for name in ("pairs", "numbers", "parts"))
    assert pairs.key == ("note_id", "n")
    (foreign,) = pairs.foreign
    assert (foreign.columns, foreign.target, foreign.referenced) == (("note_id",), Name("app", "notes"), ("id",))
    assert foreign.cascades
    assert numbers.column["id"].numbered
    assert numbers.column["seen"].identity == "a"
    assert numbers.is_unique(["owner"])
    assert not numbers.is_unique(["label"])
    assert not facts.table[Name("app", "three")].is_unique(["code"])  # of lower(code) only
    assert parts.partitioned_by == ("at",)
    assert parts.is_unique(["id"])
    assert facts.table[Name("app", "parts_1")].partition_of == "app.parts"
    assert facts.references(Name("app", "notes")) == [Name("app", "numbers"), Name("app", "pairs")]
    assert [other.name for other in facts.others] == ["few"]


async def test_tables_of_the_system_of_extensions_and_of_others_are_no_candidates(every_postgres: Cluster) -> None:
    facts = await read_facts(
        every_postgres,
        "CREATE SCHEMA sync; CREATE SCHEMA auth; CREATE TABLE sync.log (a int); CREATE TABLE auth.users (id uuid);"
        "CREATE TEMP TABLE t (id int)",
    )
    assert facts == Facts()


async def test_an_index_serves_a_list_whose_order_it_has(every_postgres: Cluster) -> None:
    facts = await read_facts(
        every_postgres,
        "CREATE TABLE notes (id uuid PRIMARY KEY, owner uuid, at timestamptz, other text);"
        "CREATE INDEX list ON notes (owner, at DESC, id DESC);"
        "CREATE INDEX mixed ON notes (other, at DESC, id);"
        "CREATE INDEX part ON notes (at, id) WHERE other IS NULL",
    )
    (notes,) = facts.tables
    serving = [index.name for index in notes.indexes if index.serves(["owner"], ["at", "id"])]
    assert serving == ["list"]
    assert not any(index.serves(["other"], ["at", "id"]) for index in notes.indexes)
    assert not any(index.serves([], ["at", "id"]) for index in notes.indexes)
