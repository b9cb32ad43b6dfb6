-- Records the changes of library.account as rows of kind account.
CREATE OR REPLACE FUNCTION sync.record_account() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    _owner pg_catalog.uuid;
    _former pg_catalog.uuid;
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (OLD.number, OLD."user") IS DISTINCT FROM (NEW.number, NEW."user")) THEN
        -- A row that moves is deleted where it was. If its new parent is deleted before a device reads of
        -- the move, the deletion of that parent alone would not remove it from the device.
        _former := OLD."user";
        IF _former IS NOT NULL THEN
            PERFORM sync.record(_former, 'a', 'd', NULL, NULL, ARRAY[OLD.number::text]);
        END IF;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        _owner := NEW."user";
        IF _owner IS NOT NULL THEN
            PERFORM sync.record(_owner, 'a', 'u', NULL, NULL, ARRAY[NEW.number::text]);
        END IF;
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION sync.record_account FROM PUBLIC;

-- Records the changes of public."Shelf" as rows of kind shelf.
CREATE OR REPLACE FUNCTION sync.record_shelf() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    _owner pg_catalog.uuid;
    _former pg_catalog.uuid;
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (OLD."Code", OLD."Owner") IS DISTINCT FROM (NEW."Code", NEW."Owner")) THEN
        -- A row that moves is deleted where it was. If its new parent is deleted before a device reads of
        -- the move, the deletion of that parent alone would not remove it from the device.
        _former := sync.user_of(OLD."Owner");
        IF _former IS NOT NULL THEN
            PERFORM sync.record(_former, 's', 'd', NULL, NULL, ARRAY[OLD."Code"::text]);
        END IF;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        _owner := sync.user_of(NEW."Owner");
        IF _owner IS NOT NULL THEN
            PERFORM sync.record(_owner, 's', 'u', NULL, NULL, ARRAY[NEW."Code"::text]);
        END IF;
    END IF;
    IF TG_OP = 'UPDATE' AND (OLD."Code", OLD."Owner") IS DISTINCT FROM (NEW."Code", NEW."Owner") THEN
        -- Rows below it that belonged to nobody are changed before, or know of its owner.
        PERFORM sync.hold('s', NEW."Code"::text, true);
        PERFORM sync.hold('s', OLD."Code"::text, true);
        IF TG_OP = 'UPDATE' AND _former IS NULL AND _owner IS NOT NULL THEN
            PERFORM sync.refuse_unseen();
        END IF;
    END IF;
    IF _owner IS NOT NULL AND TG_OP = 'UPDATE' AND (OLD."Code", OLD."Owner") IS DISTINCT FROM (NEW."Code", NEW."Owner") THEN
        -- The rows below it are to be sent where it is now.
        IF row_security_active('library.book') OR row_security_active('library.mark') THEN
            PERFORM sync.refuse_hidden(sync.hidden());
        END IF;
        PERFORM sync.record(_owner, 'b', 'u', NULL, NULL, ARRAY[c.id::text])
        FROM library.book c WHERE c.shelf = NEW."Code";
        PERFORM sync.record(_owner, 'M', 'u', NULL, NULL, ARRAY[g.book::text, g.page::text])
        FROM library.mark g JOIN library.book c ON g.book = c.id WHERE c.shelf = NEW."Code";
    END IF;
    IF (TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (OLD."Code", OLD."Owner") IS DISTINCT FROM (NEW."Code", NEW."Owner"))) AND sync.noted_moves() <> '' THEN
        -- Rows have left it before, in this transaction. From here on its former owner's feed is held,
        -- so that all rows below them can be seen.
        PERFORM sync.record(c._to, 'M', 'u', NULL, NULL, ARRAY[g.book::text, g.page::text])
        FROM (SELECT c.id, (SELECT sync.user_of(p1."Owner") FROM public."Shelf" p1 WHERE p1."Code" = c.shelf) AS _to
              FROM sync.moved('b') l JOIN library.book c
              ON c.id = (l.row_key[1])::bigint) c
        JOIN library.mark g ON g.book = c.id
        WHERE c._to IS NOT NULL;
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION sync.record_shelf FROM PUBLIC;

-- Records the changes of library.book as rows of kind book.
CREATE OR REPLACE FUNCTION sync.record_book() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    _owner pg_catalog.uuid;
    _former pg_catalog.uuid;
    _again pg_catalog.uuid;
    _seen pg_catalog.int8;
    _held pg_catalog.bool := false;
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (OLD.id, OLD.shelf) IS DISTINCT FROM (NEW.id, NEW.shelf)) THEN
        -- A row that moves is deleted where it was. If its new parent is deleted before a device reads of
        -- the move, the deletion of that parent alone would not remove it from the device.
        _held := false;
        SELECT sync.user_of(p1."Owner"), coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = sync.user_of(p1."Owner")), 0) INTO _former, _seen
        FROM public."Shelf" p1 WHERE p1."Code" = OLD.shelf;
        LOOP
            IF _former IS NOT NULL THEN
                EXIT WHEN coalesce(sync.record(_former, 'b', 'd', NULL, NULL, ARRAY[OLD.id::text], seen => _seen) = _seen, true);
                -- Between that look and the feed's lock another transaction changed the feed. If it gave the parent to another
                -- user, it did not see this change. Under the lock none gives it to another one.
                SELECT sync.user_of(p1."Owner"), coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = sync.user_of(p1."Owner")), 0) INTO _again, _seen
                FROM public."Shelf" p1 WHERE p1."Code" = OLD.shelf;
                EXIT WHEN _again = _former;
            ELSE
                EXIT WHEN _held;
                -- Nobody has no feed. This keeps a parent from getting an owner meanwhile.
                PERFORM sync.hold('s', p1."Code"::text, false) FROM public."Shelf" p1 WHERE p1."Code" = OLD.shelf;
                _held := FOUND;
                EXIT WHEN NOT _held;
                SELECT sync.user_of(p1."Owner"), coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = sync.user_of(p1."Owner")), 0) INTO _again, _seen
                FROM public."Shelf" p1 WHERE p1."Code" = OLD.shelf;
            END IF;
            _former := _again;
        END LOOP;
        IF _former IS NULL AND TG_OP = 'UPDATE' THEN
            -- A parent that was deleted in this transaction has no owner any more.
            _again := (SELECT sync.user_of(p1."Owner") FROM public."Shelf" p1 WHERE p1."Code" = NEW.shelf);
            IF _again IS NOT NULL THEN
                PERFORM sync.record(_again, 'b', 'd', NULL, NULL, ARRAY[OLD.id::text]);
            END IF;
        END IF;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        _held := false;
        SELECT sync.user_of(p1."Owner"), coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = sync.user_of(p1."Owner")), 0) INTO _owner, _seen
        FROM public."Shelf" p1 WHERE p1."Code" = NEW.shelf;
        LOOP
            IF _owner IS NOT NULL THEN
                EXIT WHEN coalesce(sync.record(_owner, 'b', 'u', NULL, NULL, ARRAY[NEW.id::text], seen => _seen) = _seen, true);
                -- Between that look and the feed's lock another transaction changed the feed. If it gave the parent to another
                -- user, it did not see this change. Under the lock none gives it to another one.
                SELECT sync.user_of(p1."Owner"), coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = sync.user_of(p1."Owner")), 0) INTO _again, _seen
                FROM public."Shelf" p1 WHERE p1."Code" = NEW.shelf;
                EXIT WHEN _again = _owner;
                -- Not that user's row. A reading of that feed does not find it; a server that reads the WAL cannot tell.
                PERFORM sync.record(_owner, 'b', 'd', NULL, NULL, ARRAY[NEW.id::text]);
            ELSE
                EXIT WHEN _held;
                -- Nobody has no feed. This keeps a parent from getting an owner meanwhile.
                PERFORM sync.hold('s', p1."Code"::text, false) FROM public."Shelf" p1 WHERE p1."Code" = NEW.shelf;
                _held := FOUND;
                EXIT WHEN NOT _held;
                SELECT sync.user_of(p1."Owner"), coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = sync.user_of(p1."Owner")), 0) INTO _again, _seen
                FROM public."Shelf" p1 WHERE p1."Code" = NEW.shelf;
            END IF;
            _owner := _again;
        END LOOP;
    END IF;
    IF TG_OP = 'UPDATE' AND (OLD.id, OLD.shelf) IS DISTINCT FROM (NEW.id, NEW.shelf) THEN
        -- Rows below it that belonged to nobody are changed before, or know of its owner.
        PERFORM sync.hold('b', NEW.id::text, true);
        PERFORM sync.hold('b', OLD.id::text, true);
        IF TG_OP = 'UPDATE' AND _former IS NULL AND _owner IS NOT NULL THEN
            PERFORM sync.refuse_unseen();
        END IF;
    END IF;
    IF _owner IS NOT NULL AND TG_OP = 'UPDATE' AND (OLD.id, OLD.shelf) IS DISTINCT FROM (NEW.id, NEW.shelf) THEN
        -- The rows below it are to be sent where it is now.
        IF row_security_active('library.mark') THEN
            PERFORM sync.refuse_hidden(sync.hidden());
        END IF;
        PERFORM sync.record(_owner, 'M', 'u', NULL, NULL, ARRAY[c.book::text, c.page::text])
        FROM library.mark c WHERE c.book = NEW.id;
        PERFORM sync.note_move(_owner);
    END IF;
    IF _owner IS NULL AND _former IS NULL AND (row_security_active('public."Shelf"')) THEN
        -- The parent was deleted, which is recorded instead; or row level security hides it.
        PERFORM sync.refuse_hidden(sync.hidden());
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION sync.record_book FROM PUBLIC;

-- Records the changes of library.mark as rows of kind mark.
CREATE OR REPLACE FUNCTION sync.record_mark() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    _owner pg_catalog.uuid;
    _former pg_catalog.uuid;
    _again pg_catalog.uuid;
    _seen pg_catalog.int8;
    _held pg_catalog.bool := false;
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (OLD.book, OLD.page) IS DISTINCT FROM (NEW.book, NEW.page)) THEN
        -- A row that moves is deleted where it was. If its new parent is deleted before a device reads of
        -- the move, the deletion of that parent alone would not remove it from the device.
        _held := false;
        SELECT sync.user_of(p2."Owner"), coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = sync.user_of(p2."Owner")), 0) INTO _former, _seen
        FROM public."Shelf" p2 WHERE p2."Code" = (SELECT p1.shelf FROM library.book p1 WHERE p1.id = OLD.book);
        LOOP
            IF _former IS NOT NULL THEN
                EXIT WHEN coalesce(sync.record(_former, 'M', 'd', NULL, NULL, ARRAY[OLD.book::text, OLD.page::text], seen => _seen) = _seen, true);
                -- Between that look and the feed's lock another transaction changed the feed. If it gave the parent to another
                -- user, it did not see this change. Under the lock none gives it to another one.
                SELECT sync.user_of(p2."Owner"), coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = sync.user_of(p2."Owner")), 0) INTO _again, _seen
                FROM public."Shelf" p2 WHERE p2."Code" = (SELECT p1.shelf FROM library.book p1 WHERE p1.id = OLD.book);
                EXIT WHEN _again = _former;
            ELSE
                EXIT WHEN _held;
                -- Nobody has no feed. This keeps a parent from getting an owner meanwhile.
                PERFORM sync.hold('b', p1.id::text, false) FROM library.book p1 WHERE p1.id = OLD.book;
                _held := FOUND;
                EXIT WHEN NOT _held;
                PERFORM sync.hold('s', p2."Code"::text, false)
                FROM public."Shelf" p2, library.book p1 WHERE p1.id = OLD.book AND p2."Code" = p1.shelf;
                SELECT sync.user_of(p2."Owner"), coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = sync.user_of(p2."Owner")), 0) INTO _again, _seen
                FROM public."Shelf" p2 WHERE p2."Code" = (SELECT p1.shelf FROM library.book p1 WHERE p1.id = OLD.book);
            END IF;
            _former := _again;
        END LOOP;
        IF _former IS NULL AND TG_OP = 'UPDATE' THEN
            -- A parent that was deleted in this transaction has no owner any more.
            _again := (SELECT (SELECT sync.user_of(p2."Owner") FROM public."Shelf" p2 WHERE p2."Code" = p1.shelf) FROM library.book p1 WHERE p1.id = NEW.book);
            IF _again IS NOT NULL THEN
                PERFORM sync.record(_again, 'M', 'd', NULL, NULL, ARRAY[OLD.book::text, OLD.page::text]);
            END IF;
        END IF;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        _held := false;
        SELECT sync.user_of(p2."Owner"), coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = sync.user_of(p2."Owner")), 0) INTO _owner, _seen
        FROM public."Shelf" p2 WHERE p2."Code" = (SELECT p1.shelf FROM library.book p1 WHERE p1.id = NEW.book);
        LOOP
            IF _owner IS NOT NULL THEN
                EXIT WHEN coalesce(sync.record(_owner, 'M', 'u', NULL, NULL, ARRAY[NEW.book::text, NEW.page::text], seen => _seen) = _seen, true);
                -- Between that look and the feed's lock another transaction changed the feed. If it gave the parent to another
                -- user, it did not see this change. Under the lock none gives it to another one.
                SELECT sync.user_of(p2."Owner"), coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = sync.user_of(p2."Owner")), 0) INTO _again, _seen
                FROM public."Shelf" p2 WHERE p2."Code" = (SELECT p1.shelf FROM library.book p1 WHERE p1.id = NEW.book);
                EXIT WHEN _again = _owner;
                -- Not that user's row. A reading of that feed does not find it; a server that reads the WAL cannot tell.
                PERFORM sync.record(_owner, 'M', 'd', NULL, NULL, ARRAY[NEW.book::text, NEW.page::text]);
            ELSE
                EXIT WHEN _held;
                -- Nobody has no feed. This keeps a parent from getting an owner meanwhile.
                PERFORM sync.hold('b', p1.id::text, false) FROM library.book p1 WHERE p1.id = NEW.book;
                _held := FOUND;
                EXIT WHEN NOT _held;
                PERFORM sync.hold('s', p2."Code"::text, false)
                FROM public."Shelf" p2, library.book p1 WHERE p1.id = NEW.book AND p2."Code" = p1.shelf;
                SELECT sync.user_of(p2."Owner"), coalesce((SELECT f.mark FROM sync.feeds f WHERE f.user_id = sync.user_of(p2."Owner")), 0) INTO _again, _seen
                FROM public."Shelf" p2 WHERE p2."Code" = (SELECT p1.shelf FROM library.book p1 WHERE p1.id = NEW.book);
            END IF;
            _owner := _again;
        END LOOP;
    END IF;
    IF _owner IS NULL AND _former IS NULL AND (row_security_active('library.book') OR row_security_active('public."Shelf"')) THEN
        -- The parent was deleted, which is recorded instead; or row level security hides it.
        PERFORM sync.refuse_hidden(sync.hidden());
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION sync.record_mark FROM PUBLIC;

-- Records the changes of library.follow as rows of kind follow.
CREATE OR REPLACE FUNCTION sync.record_follow() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    _owner pg_catalog.uuid;
    _former pg_catalog.uuid;
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (OLD."user", OLD.author) IS DISTINCT FROM (NEW."user", NEW.author)) THEN
        -- A row that moves is deleted where it was. If its new parent is deleted before a device reads of
        -- the move, the deletion of that parent alone would not remove it from the device.
        _former := OLD."user";
        IF _former IS NOT NULL THEN
            PERFORM sync.record(_former, '0', 'd', NULL, NULL, ARRAY[OLD."user"::text, OLD.author::text]);
        END IF;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        _owner := NEW."user";
        IF _owner IS NOT NULL THEN
            PERFORM sync.record(_owner, '0', 'u', NULL, NULL, ARRAY[NEW."user"::text, NEW.author::text]);
        END IF;
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION sync.record_follow FROM PUBLIC;

-- Applies mutations of rows of kind shelf.
CREATE OR REPLACE FUNCTION sync.write_shelf(_op text, _owner uuid, _key text[], _patch jsonb, _at timestamptz)
RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    _key1 text := _key[1];
BEGIN
    CASE _op
    WHEN '+' THEN
        INSERT INTO public."Shelf" ("Code", "Owner", "the name", "position", "changedAt")
        VALUES (_key1, _owner::text, (_patch ->> 'name'::text)::character varying, CASE WHEN _patch ? 'position'::text THEN (_patch ->> 'position'::text)::smallint ELSE 0 END, pg_catalog.timezone('UTC', _at))
        ON CONFLICT ("Code") DO NOTHING;
        IF NOT FOUND THEN
            PERFORM FROM public."Shelf" t WHERE t."Code" = _key1 AND t."Owner" = _owner::text;
            IF NOT FOUND THEN
                RETURN 'bad_id';
            END IF;
        END IF;
    WHEN '~' THEN
        UPDATE public."Shelf" t SET "the name" = CASE WHEN _patch ? 'name'::text THEN (_patch ->> 'name'::text)::character varying ELSE t."the name" END, "position" = CASE WHEN _patch ? 'position'::text THEN (_patch ->> 'position'::text)::smallint ELSE t."position" END, "changedAt" = greatest(t."changedAt", pg_catalog.timezone('UTC', _at))
        WHERE t."Code" = _key1 AND t."Owner" = _owner::text;
        IF NOT FOUND THEN
            RETURN 'unknown_row';
        END IF;
    WHEN '-' THEN
        IF (SELECT count(*) FROM (SELECT FROM public."Shelf" t JOIN library.book c ON c.shelf = _key1 JOIN library.mark g ON g.book = c.id
                                  WHERE t."Code" = _key1 AND t."Owner" = _owner::text LIMIT sync.portion() + 1) first) > sync.portion() THEN
            DELETE FROM library.mark g USING (
                SELECT g.book, g.page FROM library.book c JOIN library.mark g ON g.book = c.id WHERE c.shelf = _key1 LIMIT sync.portion()
            ) old WHERE g.book = old.book AND g.page = old.page;
            IF FOUND THEN
                RETURN 'more';
            END IF;
            -- Nothing was deleted: a trigger of the app keeps them.
        END IF;
        IF (SELECT count(*) FROM (SELECT FROM public."Shelf" t JOIN library.book c ON c.shelf = _key1
                                  WHERE t."Code" = _key1 AND t."Owner" = _owner::text LIMIT sync.portion() + 1) first) > sync.portion() THEN
            DELETE FROM library.book c USING (
                SELECT c.id FROM library.book c WHERE c.shelf = _key1 ORDER BY c.id LIMIT sync.portion()
            ) old WHERE c.id = old.id;
            IF FOUND THEN
                RETURN 'more';
            END IF;
            -- Nothing was deleted: a trigger of the app keeps them.
        END IF;
        DELETE FROM public."Shelf" t WHERE t."Code" = _key1 AND t."Owner" = _owner::text;
    END CASE;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION sync.write_shelf FROM PUBLIC;

-- Applies mutations of rows of kind book.
CREATE OR REPLACE FUNCTION sync.write_book(_op text, _owner uuid, _key text[], _patch jsonb, _at timestamptz)
RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    _key1 bigint := (_key[1])::bigint;
    _parent text := _patch ->> 'shelf'::text;
BEGIN
    CASE _op
    WHEN '+' THEN
        INSERT INTO library.book (id, shelf, title, price, read_on, meta, source, tags, loans, mood, rating, score, pages, isbn, cover, borrower, lent, added_at, edited_at)
        SELECT _key1, o."Code", (_patch ->> 'title'::text)::character varying, (_patch ->> 'price'::text)::numeric, (_patch ->> 'read_on'::text)::date, (_patch ->> 'meta'::text)::jsonb, (_patch ->> 'source'::text)::json, sync.elements(_patch ->> 'tags'::text)::text[], CASE WHEN _patch ? 'loans'::text THEN sync.elements(_patch ->> 'loans'::text)::bigint[] ELSE '{}'::bigint[] END, CASE WHEN _patch ? 'mood'::text THEN (_patch ->> 'mood'::text)::library.mood ELSE 'calm'::library.mood END, (_patch ->> 'rating'::text)::real, (_patch ->> 'score'::text)::double precision, (_patch ->> 'pages'::text)::integer, (_patch ->> 'isbn'::text)::bigint, pg_catalog.decode(_patch ->> 'cover'::text, 'base64'), (_patch ->> 'borrower'::text)::uuid, CASE WHEN _patch ? 'lent'::text THEN (_patch ->> 'lent'::text)::boolean ELSE false END, pg_catalog.timezone('UTC', _at), _at
        FROM public."Shelf" o WHERE o."Code" = _parent AND o."Owner" = _owner::text
        ON CONFLICT (id) DO NOTHING;
        IF NOT FOUND THEN
            PERFORM FROM public."Shelf" o WHERE o."Code" = _parent AND o."Owner" = _owner::text;
            IF NOT FOUND THEN
                RETURN 'unknown_parent';
            END IF;
            PERFORM FROM library.book t WHERE t.id = _key1 AND (SELECT sync.user_of(p1."Owner") FROM public."Shelf" p1 WHERE p1."Code" = t.shelf) = _owner;
            IF NOT FOUND THEN
                RETURN 'bad_id';
            END IF;
        ELSE
            UPDATE public."Shelf" o SET "changedAt" = pg_catalog.timezone('UTC', _at)
            WHERE o."Code" = _parent AND o."Owner" = _owner::text AND o."changedAt" < pg_catalog.timezone('UTC', _at);
        END IF;
    WHEN '~' THEN
        UPDATE library.book t SET title = CASE WHEN _patch ? 'title'::text THEN (_patch ->> 'title'::text)::character varying ELSE t.title END, price = CASE WHEN _patch ? 'price'::text THEN (_patch ->> 'price'::text)::numeric ELSE t.price END, read_on = CASE WHEN _patch ? 'read_on'::text THEN (_patch ->> 'read_on'::text)::date ELSE t.read_on END, meta = CASE WHEN _patch ? 'meta'::text THEN (_patch ->> 'meta'::text)::jsonb ELSE t.meta END, source = CASE WHEN _patch ? 'source'::text THEN (_patch ->> 'source'::text)::json ELSE t.source END, tags = CASE WHEN _patch ? 'tags'::text THEN sync.elements(_patch ->> 'tags'::text)::text[] ELSE t.tags END, loans = CASE WHEN _patch ? 'loans'::text THEN sync.elements(_patch ->> 'loans'::text)::bigint[] ELSE t.loans END, mood = CASE WHEN _patch ? 'mood'::text THEN (_patch ->> 'mood'::text)::library.mood ELSE t.mood END, rating = CASE WHEN _patch ? 'rating'::text THEN (_patch ->> 'rating'::text)::real ELSE t.rating END, score = CASE WHEN _patch ? 'score'::text THEN (_patch ->> 'score'::text)::double precision ELSE t.score END, pages = CASE WHEN _patch ? 'pages'::text THEN (_patch ->> 'pages'::text)::integer ELSE t.pages END, isbn = CASE WHEN _patch ? 'isbn'::text THEN (_patch ->> 'isbn'::text)::bigint ELSE t.isbn END, cover = CASE WHEN _patch ? 'cover'::text THEN pg_catalog.decode(_patch ->> 'cover'::text, 'base64') ELSE t.cover END, borrower = CASE WHEN _patch ? 'borrower'::text THEN (_patch ->> 'borrower'::text)::uuid ELSE t.borrower END, lent = CASE WHEN _patch ? 'lent'::text THEN (_patch ->> 'lent'::text)::boolean ELSE t.lent END, edited_at = greatest(t.edited_at, _at)
        WHERE t.id = _key1 AND (SELECT sync.user_of(p1."Owner") FROM public."Shelf" p1 WHERE p1."Code" = t.shelf) = _owner AND t.mood::text IN ('calm');
        IF NOT FOUND THEN
            PERFORM FROM library.book t WHERE t.id = _key1 AND (SELECT sync.user_of(p1."Owner") FROM public."Shelf" p1 WHERE p1."Code" = t.shelf) = _owner;
            IF FOUND THEN
                RETURN 'bad_value';
            END IF;
            RETURN 'unknown_row';
        END IF;
    WHEN '-' THEN
        IF (SELECT count(*) FROM (SELECT FROM library.book t JOIN library.mark c ON c.book = _key1
                                  WHERE t.id = _key1 AND (SELECT sync.user_of(p1."Owner") FROM public."Shelf" p1 WHERE p1."Code" = t.shelf) = _owner LIMIT sync.portion() + 1) first) > sync.portion() THEN
            DELETE FROM library.mark c USING (
                SELECT c.book, c.page FROM library.mark c WHERE c.book = _key1 ORDER BY c.page, c.book LIMIT sync.portion()
            ) old WHERE c.book = old.book AND c.page = old.page;
            IF FOUND THEN
                RETURN 'more';
            END IF;
            -- Nothing was deleted: a trigger of the app keeps them.
        END IF;
        DELETE FROM library.book t WHERE t.id = _key1 AND (SELECT sync.user_of(p1."Owner") FROM public."Shelf" p1 WHERE p1."Code" = t.shelf) = _owner;
    END CASE;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION sync.write_book FROM PUBLIC;

-- Applies mutations of rows of kind mark.
CREATE OR REPLACE FUNCTION sync.write_mark(_op text, _owner uuid, _key text[], _patch jsonb, _at timestamptz)
RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    _key1 bigint := (_key[1])::bigint;
    _key2 integer := (_key[2])::integer;
    _parent bigint := (_patch ->> 'book'::text)::bigint;
BEGIN
    CASE _op
    WHEN '+' THEN
        INSERT INTO library.mark (book, page, "user", note)
        SELECT _key1, _key2, _owner::text, CASE WHEN _patch ? 'note'::text THEN _patch ->> 'note'::text ELSE 'it''s here\'::text END
        FROM library.book o WHERE o.id = _parent AND (SELECT sync.user_of(p1."Owner") FROM public."Shelf" p1 WHERE p1."Code" = o.shelf) = _owner
        ON CONFLICT (book, page) DO NOTHING;
        IF NOT FOUND THEN
            PERFORM FROM library.book o WHERE o.id = _parent AND (SELECT sync.user_of(p1."Owner") FROM public."Shelf" p1 WHERE p1."Code" = o.shelf) = _owner;
            IF NOT FOUND THEN
                RETURN 'unknown_parent';
            END IF;
            PERFORM FROM library.mark t WHERE t.book = _key1 AND t.page = _key2 AND (SELECT (SELECT sync.user_of(p2."Owner") FROM public."Shelf" p2 WHERE p2."Code" = p1.shelf) FROM library.book p1 WHERE p1.id = t.book) = _owner;
            IF NOT FOUND THEN
                RETURN 'bad_id';
            END IF;
        END IF;
    WHEN '~' THEN
        UPDATE library.mark t SET note = _patch ->> 'note'::text
        WHERE t.book = _key1 AND t.page = _key2 AND (SELECT (SELECT sync.user_of(p2."Owner") FROM public."Shelf" p2 WHERE p2."Code" = p1.shelf) FROM library.book p1 WHERE p1.id = t.book) = _owner;
        IF NOT FOUND THEN
            RETURN 'unknown_row';
        END IF;
    WHEN '-' THEN
        DELETE FROM library.mark t WHERE t.book = _key1 AND t.page = _key2 AND (SELECT (SELECT sync.user_of(p2."Owner") FROM public."Shelf" p2 WHERE p2."Code" = p1.shelf) FROM library.book p1 WHERE p1.id = t.book) = _owner;
    END CASE;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION sync.write_mark FROM PUBLIC;

-- Applies mutations of rows of kind follow.
CREATE OR REPLACE FUNCTION sync.write_follow(_op text, _owner uuid, _key text[], _patch jsonb, _at timestamptz)
RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    _key1 uuid := (_key[1])::uuid;
    _key2 text := _key[2];
BEGIN
    CASE _op
    WHEN '+' THEN
        IF _key1::text <> _owner::text THEN
            RETURN 'bad_id';
        END IF;
        INSERT INTO library.follow ("user", author)
        VALUES (_key1, _key2)
        ON CONFLICT ("user", author) DO NOTHING;
        IF NOT FOUND THEN
            PERFORM FROM library.follow t WHERE t."user" = _key1 AND t.author = _key2 AND t."user" = _owner;
            IF NOT FOUND THEN
                RETURN 'bad_id';
            END IF;
        END IF;
    WHEN '~' THEN
        RETURN 'not_allowed';
    WHEN '-' THEN
        DELETE FROM library.follow t WHERE t."user" = _key1 AND t.author = _key2 AND t."user" = _owner;
    END CASE;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION sync.write_follow FROM PUBLIC;

-- Applies one mutation: `op` is + (insert), ~ (update) or - (delete), `key` the row's key, of which the second half may
-- be the instant by which a table is partitioned, in microseconds since 1970. Returns NULL, the code of a rejection, or
-- `more`: a part was deleted, and the rest is to be deleted by another call.
CREATE OR REPLACE FUNCTION sync.write(tag text, op text, owner uuid, key text[], patch jsonb, at timestamptz)
RETURNS text LANGUAGE sql AS $$
    SELECT CASE tag
        WHEN 's' THEN sync.write_shelf(op, owner, key, patch, at)
        WHEN 'b' THEN sync.write_book(op, owner, key, patch, at)
        WHEN 'M' THEN sync.write_mark(op, owner, key, patch, at)
        WHEN '0' THEN sync.write_follow(op, owner, key, patch, at)
        ELSE 'not_allowed' END
$$;
REVOKE ALL ON FUNCTION sync.write FROM PUBLIC;

-- Whether this user syncs: at most one row.
DROP FUNCTION IF EXISTS sync.admitted(uuid);
CREATE OR REPLACE FUNCTION sync.admitted(owner uuid) RETURNS SETOF boolean
LANGUAGE sql STABLE AS $$
    SELECT (q.plan::text IN ('free')) IS NOT TRUE FROM library.account q WHERE q."user" = $1 LIMIT 1
$$;
REVOKE ALL ON FUNCTION sync.admitted FROM PUBLIC;

-- The value of the gate's column by which this user syncs, or not.
CREATE OR REPLACE FUNCTION sync.tier(owner uuid) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT (SELECT q.plan::text FROM library.account q WHERE q."user" = $1 LIMIT 1)
$$;
REVOKE ALL ON FUNCTION sync.tier FROM PUBLIC;

-- For a stream: whose row this is, and what the column holds. Without a result there is no such row, or the column may
-- not be streamed.
CREATE OR REPLACE FUNCTION sync.streamed(_tag text, _key text[], _name text)
RETURNS TABLE (owner uuid, held text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
END
$$;
REVOKE ALL ON FUNCTION sync.streamed FROM PUBLIC;
-- Compares the text of a stream with its row. `_base`: md5 of what the column held when the stream was opened. Returns
-- `gone`, the row is not there or not the user's; `settled`, it has this text or another one of the app; `lags`; or,
-- with `_write`, for one that lags `written`.
CREATE OR REPLACE FUNCTION sync.settle(_tag text, _owner uuid, _key text[], _name text, _text text, _base text,
                                       _state text, _write boolean)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    _held pg_catalog.text;
BEGIN
    RETURN 'gone';
END
$$;
REVOKE ALL ON FUNCTION sync.settle FROM PUBLIC;

GRANT USAGE ON SCHEMA library, public TO atlas_sync;
GRANT SELECT (number, "user", plan) ON library.account TO atlas_sync;
GRANT SELECT ("Code", "Owner", "the name", "position") ON public."Shelf" TO atlas_sync;
GRANT SELECT (id, shelf, title, price, read_on, meta, source, tags, loans, mood, rating, score, pages, isbn, added_at, edited_at, cover, borrower, lent) ON library.book TO atlas_sync;
GRANT SELECT (book, page, note) ON library.mark TO atlas_sync;
GRANT SELECT ("user", author, rank, since) ON library.follow TO atlas_sync;

CREATE CONSTRAINT TRIGGER atlas_sync_record AFTER INSERT OR DELETE ON library.account
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.record_account();
CREATE CONSTRAINT TRIGGER atlas_sync_record_update AFTER UPDATE ON library.account
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.number, OLD."user", OLD.plan::text) IS DISTINCT FROM (NEW.number, NEW."user", NEW.plan::text))
    EXECUTE FUNCTION sync.record_account();
CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON library.account
    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();

CREATE CONSTRAINT TRIGGER atlas_sync_record AFTER INSERT OR DELETE ON public."Shelf"
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.record_shelf();
CREATE CONSTRAINT TRIGGER atlas_sync_record_update AFTER UPDATE ON public."Shelf"
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD."Code", OLD."Owner", OLD."the name", OLD."position") IS DISTINCT FROM (NEW."Code", NEW."Owner", NEW."the name", NEW."position"))
    EXECUTE FUNCTION sync.record_shelf();
CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON public."Shelf"
    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();

CREATE CONSTRAINT TRIGGER atlas_sync_record AFTER INSERT OR DELETE ON library.book
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.record_book();
CREATE CONSTRAINT TRIGGER atlas_sync_record_update AFTER UPDATE ON library.book
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.id, OLD.shelf, OLD.title, OLD.price::text, OLD.read_on, OLD.meta, OLD.source::text, OLD.tags::text, OLD.loans::text, OLD.mood::text, OLD.rating, OLD.score, OLD.pages, OLD.isbn, OLD.added_at, OLD.edited_at, OLD.cover, OLD.borrower, OLD.lent) IS DISTINCT FROM (NEW.id, NEW.shelf, NEW.title, NEW.price::text, NEW.read_on, NEW.meta, NEW.source::text, NEW.tags::text, NEW.loans::text, NEW.mood::text, NEW.rating, NEW.score, NEW.pages, NEW.isbn, NEW.added_at, NEW.edited_at, NEW.cover, NEW.borrower, NEW.lent))
    EXECUTE FUNCTION sync.record_book();
CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON library.book
    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();

CREATE CONSTRAINT TRIGGER atlas_sync_record AFTER INSERT OR DELETE ON library.mark
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.record_mark();
CREATE CONSTRAINT TRIGGER atlas_sync_record_update AFTER UPDATE ON library.mark
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.book, OLD.page, OLD.note) IS DISTINCT FROM (NEW.book, NEW.page, NEW.note))
    EXECUTE FUNCTION sync.record_mark();
CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON library.mark
    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();

CREATE CONSTRAINT TRIGGER atlas_sync_record AFTER INSERT OR DELETE ON library.follow
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.record_follow();
CREATE CONSTRAINT TRIGGER atlas_sync_record_update AFTER UPDATE ON library.follow
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD."user", OLD.author, OLD.rank, OLD.since) IS DISTINCT FROM (NEW."user", NEW.author, NEW.rank, NEW.since))
    EXECUTE FUNCTION sync.record_follow();
CREATE TRIGGER atlas_sync_refuse_truncate BEFORE TRUNCATE ON library.follow
    FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate();

INSERT INTO sync.kinds (nsp, rel, kind, tag, columns, types, watched, casts, condition, triggers, writable, secured, parted)
VALUES ('library', 'account', 'account', 'a', ARRAY['number', 'user', 'plan'], ARRAY['integer', 'uuid', 'library.plan'], ARRAY['number', 'user', 'plan'], 1, 'WHEN ((OLD.number, OLD."user", OLD.plan::text) IS DISTINCT FROM (NEW.number, NEW."user", NEW.plan::text))', '64a76d73442ba07bfa23c85bb24e1e7a', false, false, false);
INSERT INTO sync.kinds (nsp, rel, kind, tag, columns, types, watched, casts, condition, triggers, writable, secured, parted)
VALUES ('public', 'Shelf', 'shelf', 's', ARRAY['Code', 'Owner', 'the name', 'position'], ARRAY['text', 'text', 'character varying', 'smallint'], ARRAY['Code', 'Owner', 'the name', 'position'], 0, 'WHEN ((OLD."Code", OLD."Owner", OLD."the name", OLD."position") IS DISTINCT FROM (NEW."Code", NEW."Owner", NEW."the name", NEW."position"))', 'e802cf9a978af6790262c8fe6f6bb748', true, false, false);
INSERT INTO sync.kinds (nsp, rel, kind, tag, columns, types, watched, casts, condition, triggers, writable, secured, parted)
VALUES ('library', 'book', 'book', 'b', ARRAY['id', 'shelf', 'title', 'price', 'read_on', 'meta', 'source', 'tags', 'loans', 'mood', 'rating', 'score', 'pages', 'isbn', 'added_at', 'edited_at', 'cover', 'borrower', 'lent'], ARRAY['bigint', 'text', 'character varying', 'numeric', 'date', 'jsonb', 'json', 'text[]', 'bigint[]', 'library.mood', 'real', 'double precision', 'integer', 'bigint', 'timestamp without time zone', 'timestamp with time zone', 'bytea', 'uuid', 'boolean'], ARRAY['id', 'shelf', 'title', 'price', 'read_on', 'meta', 'source', 'tags', 'loans', 'mood', 'rating', 'score', 'pages', 'isbn', 'added_at', 'edited_at', 'cover', 'borrower', 'lent'], 5, 'WHEN ((OLD.id, OLD.shelf, OLD.title, OLD.price::text, OLD.read_on, OLD.meta, OLD.source::text, OLD.tags::text, OLD.loans::text, OLD.mood::text, OLD.rating, OLD.score, OLD.pages, OLD.isbn, OLD.added_at, OLD.edited_at, OLD.cover, OLD.borrower, OLD.lent) IS DISTINCT FROM (NEW.id, NEW.shelf, NEW.title, NEW.price::text, NEW.read_on, NEW.meta, NEW.source::text, NEW.tags::text, NEW.loans::text, NEW.mood::text, NEW.rating, NEW.score, NEW.pages, NEW.isbn, NEW.added_at, NEW.edited_at, NEW.cover, NEW.borrower, NEW.lent))', 'b423ab4f749820b8bfc62f039bec3ae3', true, false, false);
INSERT INTO sync.kinds (nsp, rel, kind, tag, columns, types, watched, casts, condition, triggers, writable, secured, parted)
VALUES ('library', 'mark', 'mark', 'M', ARRAY['book', 'page', 'note'], ARRAY['bigint', 'integer', 'text'], ARRAY['book', 'page', 'note'], 0, 'WHEN ((OLD.book, OLD.page, OLD.note) IS DISTINCT FROM (NEW.book, NEW.page, NEW.note))', '2bc5d9ffb3c5dbbd8198754520c098b2', true, false, false);
INSERT INTO sync.kinds (nsp, rel, kind, tag, columns, types, watched, casts, condition, triggers, writable, secured, parted)
VALUES ('library', 'follow', 'follow', '0', ARRAY['user', 'author', 'rank', 'since'], ARRAY['uuid', 'text', 'bigint', 'date'], ARRAY['user', 'author', 'rank', 'since'], 0, 'WHEN ((OLD."user", OLD.author, OLD.rank, OLD.since) IS DISTINCT FROM (NEW."user", NEW.author, NEW.rank, NEW.since))', 'daa19d03a8e80ea74593f19894987339', true, false, false);
