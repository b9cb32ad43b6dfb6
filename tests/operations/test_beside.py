"""Where partitions of messages lie, and which names they need."""

import pytest
from msgspec.structs import replace

from server.exceptions import UnfitError
from server.operations.beside import Beside, Elsewhere, check, plan
from server.operations.catalog import Facts, Publication, parked

EARLIER = Beside(
    elsewhere=(
        Elsewhere("messages_2026_11"),
        Elsewhere("messages_v1", indexes=("by_time", "By Role"), roles=("app", "PUBLIC"), publications=("changes",)),
    ),
    archived=True,
)
FACTS = Facts(now=0.0, publications=(Publication(name="changes", owner="app", mine=True),))


def test_a_partition_moves_by_itself_and_the_old_table_is_closed() -> None:
    first, second, third = plan(EARLIER, FACTS)
    assert first.locks == "ACCESS EXCLUSIVE on sync.messages_2026_11"
    assert first.statements == ("ALTER TABLE sync.messages_2026_11 SET SCHEMA public",)
    assert second.statements == (
        "ALTER INDEX sync.by_time RENAME TO atlas_v1_by_time",
        'ALTER INDEX sync."By Role" RENAME TO "atlas_v1_By Role"',
        "ALTER PUBLICATION changes DROP TABLE sync.messages_v1",
        "ALTER TABLE sync.messages_v1 SET SCHEMA public",
        "REVOKE ALL ON public.messages_v1 FROM app CASCADE",
        "REVOKE ALL ON public.messages_v1 FROM PUBLIC CASCADE",
        "ALTER TABLE public.messages_v1 ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY atlas_sync_closed ON public.messages_v1 AS RESTRICTIVE USING (false)",
    )
    assert third.statements == ("ALTER PUBLICATION changes SET (publish_via_partition_root = true)",)
    assert plan(Beside(), FACTS) == [], "adoption itself sees to publications"


def test_a_name_of_an_index_that_is_too_long_is_still_a_name() -> None:
    name = "ä" * 31
    assert parked(f'"{name}"') == parked(f'"{name}"')
    assert len(parked(f'"{name}"').strip('"').encode()) <= 63
    assert parked('"a""b"') == '"atlas_v1_a""b"'


def test_names_that_others_have_stop_what_is_yet_to_be_made_or_moved() -> None:
    taken = Beside(taken=("messages_2026_11", "messages_default"))
    with pytest.raises(UnfitError, match=r"public: messages_2026_11, messages_default\. Rename that, or leave out"):
        check(taken)
    # A month that was detached is its owner's.
    check(replace(taken, archived=True))
    with pytest.raises(UnfitError, match=r"public: messages_2026_11\. Rename"):
        check(replace(taken, archived=True, elsewhere=EARLIER.elsewhere))
