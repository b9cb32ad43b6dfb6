"""What is wrong with a database is said in words that tell what to do, and comes back as the migrations have it."""

from server.operations.inventory import TOPICS, Wrong, by_topic, complete, definitions, mending, queue, says

FUNCTIONS = """
DROP FUNCTION IF EXISTS sync.one(text);
-- CREATE OR REPLACE FUNCTION sync.not_this_one() RETURNS int
CREATE OR REPLACE FUNCTION sync.one(a int DEFAULT 1) RETURNS int
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $one$
    SELECT 1; SELECT 'CREATE OR REPLACE FUNCTION sync.no() RETURNS int'
$one$;
CREATE OR REPLACE FUNCTION sync.two() RETURNS int LANGUAGE sql AS $$ SELECT 0 $$;
REVOKE ALL ON FUNCTION sync.one, sync.two FROM PUBLIC;
"""
VIEWS = """
CREATE OR REPLACE VIEW sync.all AS
    SELECT 1;
GRANT SELECT ON sync.all TO atlas_sync;
CREATE OR REPLACE VIEW sync.safe WITH (security_invoker = true) AS
    SELECT 2;
"""


def test_a_function_or_view_is_mended_with_the_text_of_its_file() -> None:
    known = definitions([FUNCTIONS, VIEWS])
    assert known.keys() == {"function sync.one", "function sync.two", "view sync.all", "view sync.safe"}
    assert known["view sync.all"].text == "CREATE OR REPLACE VIEW sync.all AS\n    SELECT 1"
    assert known["view sync.safe"].text.startswith("CREATE OR REPLACE VIEW sync.safe WITH (security_invoker = true) AS")
    one = known["function sync.one"]
    assert one.says == "\n    SELECT 1; SELECT 'CREATE OR REPLACE FUNCTION sync.no() RETURNS int'\n"
    assert one.text == (
        "CREATE OR REPLACE FUNCTION sync.one(a int DEFAULT 1) RETURNS int\n"
        f"LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $one${one.says}$one$"
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
