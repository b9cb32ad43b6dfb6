"""Publications of messages: its rows are published under its name, whether it is partitioned or not. Pure.

Without `publish_via_partition_root` a publication publishes rows under the names of partitions, which subscribers do
not know.
"""

from collections.abc import Iterable, Iterator, Sequence

from server.operations.catalog import OLD, UPDATED, Facts, Publication


def named(facts: Facts) -> list[Publication]:
    """Those that name messages."""
    return [publication for publication in facts.publications if not publication.all]


def obstacles(facts: Facts) -> Iterator[str]:
    """Sentences about those that would publish other rows, or the same under another name."""
    for publication in named(facts):
        if not publication.mine:
            yield (
                f"The publication {publication.name} publishes public.messages, and belongs to {publication.owner}. "
                f"Make this login a member of {publication.owner}, then migrate again."
            )
        if publication.partitioned and not publication.root:
            yield (
                f"The publication {publication.name} publishes rows of {', '.join(publication.partitioned)} under the "
                "names of partitions, and would do so with rows of public.messages. Set its "
                "publish_via_partition_root = true, or publish public.messages by another publication, then migrate "
                "again."
            )


def cautions(facts: Facts) -> list[str]:
    """Sentences about those that publish rows of messages under the names of partitions, once it has partitions, and
    about subscribers that lack the column that adoption adds."""
    adding = "messages" in facts.tables and UPDATED not in facts.columns
    whole = [publication.name for publication in facts.publications if not publication.columns] if adding else []
    added = [
        f"The publication {', '.join(whole)} will publish a new column of public.messages. On its subscribers, run "
        "ALTER TABLE messages ADD COLUMN updated_at timestamptz first."
    ]
    return (added if whole else []) + [
        f"The publication {publication.name} publishes rows of public.messages under the names of partitions. Let "
        f"{publication.owner} run ALTER PUBLICATION {publication.name} SET (publish_via_partition_root = true), which "
        "applies to the other partitioned tables that it publishes too."
        for publication in facts.publications
        if not publication.root and (publication.all or not _may_set(publication))
    ]


def under_the_roots_name(facts: Facts) -> list[Publication]:
    """Those that are to be set so."""
    return [publication for publication in named(facts) if not publication.root and _may_set(publication)]


def _may_set(publication: Publication) -> bool:
    return publication.mine and not publication.partitioned


def remove(facts: Facts) -> list[str]:
    """Statements for the table that has the name before another one gets it."""
    return [f"ALTER PUBLICATION {each.name} DROP TABLE public.messages" for each in named(facts) if each.mine]


def set_root(publications: Iterable[Publication]) -> list[str]:
    return [f"ALTER PUBLICATION {each.name} SET (publish_via_partition_root = true)" for each in publications]


def add(facts: Facts) -> Iterator[str]:
    """Statements for the table that has the name afterwards."""
    for publication in named(facts):
        if publication.mine:
            columns = f" ({publication.columns})" if publication.columns else ""
            where = f" WHERE ({publication.where})" if publication.where else ""
            yield f"ALTER PUBLICATION {publication.name} ADD TABLE public.messages{columns}{where}"


def forget_old(publications: Sequence[str]) -> list[str]:
    """Statements for the old table, which earlier versions left in publications."""
    return [f"ALTER PUBLICATION {name} DROP TABLE {OLD}" for name in publications]


def restore(facts: Facts, original: Facts) -> Iterator[str]:
    """Statements that put the old table into the publications of the new one, which is gone, as they were."""
    yield from add(facts)
    before = {publication.name: publication.root for publication in original.publications}
    for publication in named(facts):
        if publication.root and before.get(publication.name) is False and _may_set(publication):
            yield f"ALTER PUBLICATION {publication.name} SET (publish_via_partition_root = false)"
