"""What a database was ever given to keep, in its order, by a table that the app fills with triggers."""

from typing import Any
from uuid import UUID

Audit = list[tuple[str, UUID, str]]


async def keep_audit(sql: Any) -> None:
    """As an app may: every change of a text, in the order of the changes. What is done twice is here twice."""
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
    """Of these rows."""
    records = await sql.fetch("SELECT op, id, said FROM public.audit WHERE id = ANY($1) ORDER BY n", list(ids))
    return [(record["op"], UUID(str(record["id"])), record["said"]) for record in records]
