"""What `migrate` would do to a database, what stands in its way, and who notices: all at once. It changes nothing."""

from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from server.declaration.model import Declaration
from server.declaration.sql import pieces as sql
from server.declaration.sql import rights
from server.exceptions import UnfitError
from server.operations.catalog import Step
from server.postgres import adopt, audit, publication
from server.postgres.connection import connect_as_owner, statement
from server.postgres.declared import DECLARING, changed_tables, declared, following
from server.postgres.errors import translated
from server.postgres.migrate import Wanted, cautions_of, find_pending, steps_to, unfit, wanted_declaration
from server.postgres.publication import Doorbells

OF_END_USERS: Final = (
    "authenticated may read its own row of public.profiles, and read and write its own rows of public.conversations "
    "and public.messages: row level security is enabled on them, with the policies atlas_own_profile, "
    "atlas_own_conversations and atlas_own_messages."
)
OF_THE_BACKEND: Final = "service_role may add usage: INSERT on sync.usage_logs."
NO_RIGHTS: Final = "No role's rights and no row policies change."
NO_DEVICES: Final = "No device notices anything: nothing was declared before."
NOTHING: Final = "Connected devices notice nothing."
RECONNECT: Final = "Connected devices come back within seconds, and receive the new schema."
SNAPSHOT: Final = "Every device gets a snapshot, for the reason `schema`."


@dataclass(frozen=True, slots=True)
class Plan:
    """Sentences, besides the steps."""

    obstacles: list[str]
    """What has to be changed before."""
    steps: list[Step]
    """Those that are known: obstacles may hide others."""
    triggers: list[str] = field(default_factory=list)
    """The tables whose triggers change, as SQL has them."""
    rights: list[str] = field(default_factory=list)
    """Which roles' rights and policies change."""
    devices: list[str] = field(default_factory=list)
    """What connected devices notice."""
    cautions: list[str] = field(default_factory=list)


async def plan(
    url: str, *, text: str | None = None, name: str = "the declaration", doorbells: Doorbells | None = None
) -> Plan:
    """Raises UnavailableError, and UnfitError only for a database that cannot be looked at."""
    connection = await connect_as_owner(url)
    try:
        with translated():
            return await _plan(connection, text, name, doorbells)
    finally:
        connection.terminate()


async def gate(url: str) -> str | None:
    """A sentence about whom the gate of the declaration in force lets in. None without a gate. Raises UnavailableError,
    UnfitError."""
    connection = await connect_as_owner(url)
    try:
        with translated():
            declaration = await declared(connection)
            return None if declaration is None else await _gate(connection, declaration)
    finally:
        connection.terminate()


async def _gate(connection: Any, declaration: Declaration) -> str | None:
    found = await audit.audience(connection, declaration)
    return None if found is None else f"T{str(found)[1:]}."


async def _plan(connection: Any, text: str | None, name: str, doorbells: Doorbells | None) -> Plan:
    obstacles: list[str] = []
    try:
        wanted = await wanted_declaration(connection, text, name)
        pending = await find_pending(connection, wanted.partitioned)
    except UnfitError as error:
        # Of the other obstacles only those are known that do not depend on a declaration.
        return Plan([str(error), *await unfit(connection, Wanted(None, "", False, ()))], [])
    obstacles += await unfit(connection, wanted)
    obstacles += await publication.obstacles(connection, doorbells)
    if wanted.partitioned:
        obstacles += await adopt.obstacles(connection)
    declaration = None
    if not (wanted.partitioned and pending.chat):
        try:
            declaration = await wanted.resolved(connection)
        except UnfitError as error:
            obstacles.append(str(error))
    steps = [] if obstacles else await steps_to(connection, wanted, doorbells)
    found = Plan(obstacles, steps, cautions=await cautions_of(connection, wanted))
    if pending.chat:
        found.rights.append(OF_END_USERS)
    if "0009_usage" in pending.migrations:
        found.rights.append(OF_THE_BACKEND)
    if declaration is not None:
        found.cautions.extend(await publication.cautions(connection, declaration, doorbells))
        await _notices(connection, declaration, found, declares=DECLARING in steps)
    elif pending.chat:
        found.devices.append(NO_DEVICES)
    if not found.rights:
        found.rights.append(NO_RIGHTS)
    return found


async def _notices(connection: Any, declaration: Declaration, found: Plan, *, declares: bool) -> None:
    """Complete it by what follows from the declaration."""
    wanted = rights.wanted(declaration)
    reads = {sql.table(of): names for of, names in wanted.items()}
    for row in await connection.fetch(statement("plan_rights"), orjson.dumps(reads).decode()):
        found.rights.append(row["says"])
    before = None
    if await connection.fetchval("SELECT to_regclass('sync.declaration') IS NOT NULL"):
        before = await declared(connection)
    if declares:
        found.triggers.extend(await changed_tables(connection, declaration))
    if declares and (says := await _gate(connection, declaration)) is not None:
        found.devices.append(says)
    follows = await following(connection, declaration)
    if before is None:
        found.devices.append(NO_DEVICES)
    elif before.digest == declaration.digest:
        found.devices.append(NOTHING)
    else:
        for change, needs in zip(follows.changes, follows.needs, strict=True):
            found.devices.append(f"{change.says}: {'devices need' if needs else 'no device needs'} a snapshot.")
        found.devices.append(RECONNECT)
        if follows.snapshot:
            found.devices.append(SNAPSHOT)
