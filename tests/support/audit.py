"""The audit of a database: every text that was ever written to it, recorded by triggers of the app."""

from typing import Any
from uuid import UUID

Audit = list[tuple[str, UUID, str]]


async def keep_audit(sql: Any) -> None:
    """Record every change of a text, in order, as an app may. A change that is made twice is recorded twice."""
    await sql.execute(
        """
        CREATE TABLE public.audit (n bigserial PRIMARY KEY, op text, id uuid, said text);
        CREATE FUNCTION public.keep_audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        DECLARE
            changed jsonb := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END);
        BEGIN
            INSERT INTO public.audit (op, id, said)
            VALUES (TG_OP, (changed ->> 'id')::uuid, coalesce(changed ->> 'content', changed ->> 'title'));
            RETURN NULL;
        END
        $$;
        CREATE TRIGGER keep_audit AFTER INSERT OR DELETE OR UPDATE OF title ON public.conversations
            FOR EACH ROW EXECUTE FUNCTION public.keep_audit();
        CREATE TRIGGER keep_audit AFTER INSERT OR DELETE OR UPDATE OF content ON public.messages
            FOR EACH ROW EXECUTE FUNCTION public.keep_audit();
        """
    )


async def audit(sql: Any, *ids: UUID) -> Audit:
    """The audit of these rows."""
    records = await sql.fetch("SELECT op, id, said FROM public.audit WHERE id = ANY($1) ORDER BY n", list(ids))
    return [(record["op"], UUID(str(record["id"])), record["said"]) for record in records]
