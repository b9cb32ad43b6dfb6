"""What is wrong with a database is said in words that tell what to do, and comes back as the migrations have it."""

from server.operations.inventory import TOPICS, Wrong, by_topic, complete, definitions, mending, queue, says

FIRST = """
CREATE FUNCTION sync.one(a int DEFAULT 1) RETURNS int
LANGUAGE sql SET search_path = '' AS $$
    SELECT 1; SELECT 'CREATE FUNCTION sync.no() RETURNS int'
$$;
CREATE FUNCTION sync.gone() RETURNS int LANGUAGE sql AS $$ SELECT 0 $$;
CREATE VIEW sync.all AS
    SELECT 1;
GRANT SELECT ON sync.all TO atlas_sync;
"""
SECOND = """
DROP FUNCTION sync.gone();
-- As in 0001.
CREATE OR REPLACE FUNCTION sync.one(a int DEFAULT 1) RETURNS int
LANGUAGE sql SET search_path = '' AS $one$ SELECT 2 $one$;
"""


def test_a_function_is_what_the_last_migration_that_made_it_says() -> None:
    known = definitions([FIRST])
    assert known.keys() == {"function sync.one", "function sync.gone", "view sync.all"}
    assert known["view sync.all"].text == "CREATE OR REPLACE VIEW sync.all AS\n    SELECT 1"
    known = definitions([FIRST, SECOND])
    assert known.keys() == {"function sync.one", "view sync.all"}
    one = known["function sync.one"]
    assert one.says == " SELECT 2 "
    assert one.text == (
        "CREATE OR REPLACE FUNCTION sync.one(a int DEFAULT 1) RETURNS int\n"
        "LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $one$ SELECT 2 $one$"
    )
    missing = Wrong("function sync.one", "missing", None, True)
    other = Wrong("column public.messages.role", "missing: …", None, True)
    assert [wrong.mend for wrong in complete([missing, other], known)] == [one.text, None]


def test_everything_belongs_to_one_topic_and_only_what_is_made_on_a_table_needs_a_lock() -> None:
    kinds = {
        "role atlas_sync": "privileges",
        "SELECT on sync.log": "privileges",
        "trigger atlas_sync_record on public.messages": "triggers",
        "policy atlas_sync_reads on sync.log": "row security",
        "row level security of sync.log": "row security",
        "column public.messages.role": "objects",
        "function sync.push": "objects",
    }
    for what, topic in kinds.items():
        wrong = Wrong(what, "missing", "MEND", True)
        assert [name for name, found in by_topic([wrong]).items() if found] == [topic]
        assert (mending(wrong).locks == "none") is (topic in ("privileges", "objects"))
    assert by_topic([]) == {topic: [] for topic in TOPICS}


def test_of_many_five_are_named_and_what_to_do_is_said_once() -> None:
    many = [Wrong(f"trigger t on p{n}", "disabled", "ALTER …", True) for n in range(7)]
    named = ", ".join(f"trigger t on p{n} (disabled)" for n in range(5))
    assert says(many) == f"{named} and 2 more. Run `atlas-sync migrate`."
    by_hand = Wrong("column c", "missing: run ALTER TABLE …", None, True)
    assert says([by_hand]) == "column c (missing: run ALTER TABLE …)."
    login = Wrong("membership of me in atlas_sync", "missing", "GRANT atlas_sync TO me", True)
    assert says([login]) == f"{login}. Run GRANT atlas_sync TO me as an administrator."


def test_the_session_that_fills_the_queue_is_the_oldest_if_that_is_known() -> None:
    known = queue(0.34, [(17, "app", "chat", "2026-11-29 12:00:00+00"), (18, "app", "chat", "2026-11-29 12:01:00+00")])
    assert "34% full" in known
    assert "17 (app at chat)" in known
    assert known.endswith("Run SELECT pg_terminate_backend(17).")
    unknown = queue(0.34, [(17, "app", "chat", None), (18, "job", "chat", None)])
    assert "17 (app at chat), 18 (job at chat)." in unknown
    assert "pg_read_all_stats" in unknown
    assert "No session" in queue(0.34, [])
