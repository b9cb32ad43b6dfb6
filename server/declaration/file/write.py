"""A declaration as the text of its file. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from protocol.schema import Limit
from server.declaration.file.written import Columns, Devices, File, Gate, Kind, Named, Parent
from server.declaration.model import Table

WIDTH: Final = 120
SIMPLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")


def text(file: File) -> str:
    """What `file.parse` reads as the same."""
    blocks = [] if file.gate is None else [gate(file.gate)]
    return "\n".join(block for block in (*blocks, *map(kind, file.kinds)))


def gate(found: Gate) -> str:
    values = ("syncs", found.syncs) if found.syncs else ("local_only", found.local_only)
    return (
        f"[gate]\ntable = {table(found.table)}\ncolumn = {quoted(found.column)}\n"
        f"{values[0]} = {_list(map(quoted, values[1]))}\n"
    )


def kind(found: Kind) -> str:
    pairs = [
        ("tag", quoted(found.tag)),
        ("table", table(found.table)),
        ("key", None if found.key is None else key(found.key)),
        ("owner", None if found.owner is None else quoted(found.owner)),
        ("parent", None if found.parent is None else parent(found.parent)),
        ("columns", columns(found.columns)),
        ("newest", None if found.newest is None else quoted(found.newest)),
        ("window", '"all"' if found.window is None else str(found.window)),
        ("devices", None if found.devices is None else devices(found.devices)),
        ("limits", limits(found.limits) if found.limits else None),
        ("partition", '"month"' if found.partition else None),
        ("archive", None if found.archive is None else quoted(f"{found.archive} months")),
        ("policies", "true" if found.policies else None),
        ("streams", _list(map(quoted, found.streams)) if found.streams else None),
        ("ended", None if found.ended is None else quoted(found.ended)),
    ]
    lines = [f"{name} = {value}" for name, value in pairs if value is not None]
    return "\n".join([f"[kind.{found.name}]", *lines, ""])


def quoted(value: str) -> str:
    """A basic string of TOML, in which everything is printable."""
    inside = (f"\\{each}" if each in '"\\' else each for each in value)
    return '"' + "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in inside) + '"'


def comment(said: str) -> str:
    """A line. Names in it may come from a database."""
    return "# " + "".join(each if each.isprintable() else " " for each in said)


def identifier(name: str) -> str:
    """In double quotes, as in SQL, unless it is simple."""
    return name if SIMPLE.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def table(found: Table) -> str:
    return quoted(f"{identifier(found.schema)}.{identifier(found.name)}")


def key(found: tuple[str, ...]) -> str:
    return quoted(found[0]) if len(found) == 1 else _list(map(quoted, found))


def named(found: Named) -> str:
    column = identifier(found.column)
    return quoted(column if found.name == found.column else f"{column} as {found.name}")


def parent(found: Parent) -> str:
    return f"{{ kind = {quoted(found.kind)}, column = {named(found.column)} }}"


def columns(found: Columns) -> str:
    items = ['"*"'] if found.all else []
    items += map(named, found.named)
    items += [quoted(f"-{identifier(each.column)}") for each in found.without]
    return _list(items, before=len("columns = "))


def devices(found: Devices) -> str:
    pairs = [
        ("insert", None if found.insert is None else _list(map(quoted, found.insert))),
        ("update", _list(map(quoted, found.update)) if found.update else None),
        ("delete", "true" if found.delete else None),
        *(
            (name, None if value is None else quoted(value))
            for name, value in (
                ("created", found.created),
                ("updated", found.updated),
                ("touches", found.touches),
                ("owner", found.owner),
            )
        ),
    ]
    return _table(f"{name} = {value}" for name, value in pairs if value is not None)


def limits(found: Mapping[str, Limit]) -> str:
    return _table(
        f"{name} = " + (quoted(f"{limit} bytes") if isinstance(limit, int) else _list(map(quoted, limit)))
        for name, limit in found.items()
    )


def _list(items: Iterable[str], before: int = -WIDTH) -> str:
    """`before`: characters before it. If the line became too long, it has several."""
    items = list(items)
    if before + sum(map(len, items)) + 2 * len(items) <= WIDTH:
        return f"[{', '.join(items)}]"
    lines = [""]
    for item in items:
        if len(lines[-1]) + len(item) + 2 > WIDTH - 4:
            lines.append("")
        lines[-1] += f"{item}, "
    return "[\n" + "".join(f"    {line.rstrip()}\n" for line in lines if line) + "]"


def _table(pairs: Iterable[str]) -> str:
    inside = ", ".join(pairs)
    return f"{{ {inside} }}" if inside else "{}"
