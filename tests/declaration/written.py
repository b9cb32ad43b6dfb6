"""Generated declarations: as files have them, without regard to any database."""

from collections.abc import Sequence

from hypothesis import strategies as st

from server.declaration.file.parse import TAGS, camel
from server.declaration.file.written import Columns, Devices, File, Gate, Kind, Named, Parent
from server.declaration.model import Table

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)
kind_names = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True)


@st.composite
def columns(draw: st.DrawFn) -> Columns:
    found = draw(st.lists(texts | names, unique=True, max_size=5))
    wire = draw(st.lists(names, unique_by=camel, min_size=len(found), max_size=len(found)))
    named = tuple(Named(column, name) for column, name in zip(found, wire, strict=True))
    if not draw(st.booleans()):
        return Columns(named)
    without = draw(st.lists((texts | names).filter(lambda name: name not in found), unique=True, max_size=2))
    return Columns(named, True, tuple(Named(name, "") for name in without))


def some(of: Sequence[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(of), unique=True).map(tuple) if of else st.just(())


@st.composite
def kinds(draw: st.DrawFn, name: str, table: Table, tag: str, above: Sequence[str]) -> Kind:
    found = draw(columns())
    wire = [each.name for each in found.named]
    parent = None
    if len(above) > 0 and draw(st.booleans()):
        parent = Parent(draw(st.sampled_from(above)), Named(draw(texts), draw(names)))
    maybe = st.none() | texts
    devices = None
    limits = {}
    if draw(st.booleans()):
        insert = draw(st.none() | some(wire))
        inserts = insert is not None
        devices = Devices(
            insert,
            draw(some(wire)),
            draw(st.booleans()),
            draw(maybe) if inserts else None,
            draw(maybe),
            draw(maybe) if inserts else None,
            draw(maybe) if inserts else None,
        )
        limit = st.integers(1, 200_000) | st.lists(texts, min_size=1, max_size=3, unique=True).map(tuple)
        limits = {each: draw(limit) for each in draw(some(sorted(devices.writable)))}
    newest = draw(st.sampled_from([None, *wire]))
    partition = newest is not None and draw(st.booleans())
    return Kind(
        name=name,
        table=table,
        tag=tag,
        columns=found,
        key=draw(st.none() | st.lists(texts, min_size=1, max_size=2, unique=True).map(tuple)),
        owner=draw(texts) if parent is None else None,
        parent=parent,
        newest=newest,
        window=draw(st.none() | st.integers(0, 200)),
        devices=devices,
        limits=limits,
        partition=partition,
        archive=draw(st.none() | st.integers(1, 99)) if partition else None,
        policies=draw(st.booleans()),
    )


@st.composite
def files(draw: st.DrawFn) -> File:
    """What `file.parse` finds nothing wrong with."""
    kind = draw(st.lists(kind_names, unique=True, min_size=1, max_size=4))
    tables = draw(st.lists(st.builds(Table, texts, texts), unique=True, min_size=len(kind), max_size=len(kind)))
    tags = draw(st.lists(st.sampled_from(TAGS), unique=True, min_size=len(kind), max_size=len(kind)))
    found: list[Kind] = []
    for name, table, tag in zip(kind, tables, tags, strict=True):
        depths = {None: -1} | {each.name: 0 for each in found}
        for each in found:
            depths[each.name] = depths[each.parent.kind if each.parent else None] + 1
        above = [each.name for each in found if depths[each.name] < 2]
        found.append(draw(kinds(name, table, tag, above)))
    gate = None
    if draw(st.booleans()):
        values = draw(st.lists(texts, min_size=1, max_size=3, unique=True).map(tuple))
        syncs = draw(st.booleans())
        gate = Gate(draw(st.sampled_from(tables)), draw(texts), values if syncs else (), () if syncs else values)
    return File(tuple(draw(st.permutations(found))), gate)
