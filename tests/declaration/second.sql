-- What the chat schema lacks: keys of text, of integers and of two columns, every type, three levels, names in quotes.
CREATE SCHEMA library;
CREATE TYPE library.plan AS ENUM ('free', 'paid');
CREATE TYPE library.mood AS ENUM ('calm', 'wild');
CREATE TABLE library.account (
    number integer PRIMARY KEY,
    "user" uuid NOT NULL UNIQUE,
    plan   library.plan
);
CREATE TABLE public."Shelf" (
    "Code"      text PRIMARY KEY,
    "Owner"     text NOT NULL,
    "the name"  varchar(40),
    position    smallint NOT NULL DEFAULT 0,
    "changedAt" timestamp NOT NULL DEFAULT now()
);
CREATE TABLE library.book (
    id        bigint PRIMARY KEY,
    shelf     text REFERENCES public."Shelf" ON DELETE CASCADE,
    title     varchar(200) NOT NULL,
    price     numeric(10, 2),
    read_on   date,
    meta      jsonb,
    source    json,
    tags      text[],
    loans     bigint[] NOT NULL DEFAULT '{}',
    mood      library.mood NOT NULL DEFAULT 'calm',
    rating    real,
    score     double precision,
    pages     integer,
    isbn      bigint,
    added_at  timestamp,
    edited_at timestamptz NOT NULL DEFAULT now(),
    cover     bytea,
    borrower  uuid,
    lent      boolean NOT NULL DEFAULT false
);
CREATE TABLE library.mark (
    book   bigint NOT NULL REFERENCES library.book ON DELETE CASCADE,
    page   integer NOT NULL,
    "user" text NOT NULL,
    note   text NOT NULL DEFAULT 'it''s here\',
    PRIMARY KEY (book, page)
);
CREATE TABLE library.follow (
    "user" uuid NOT NULL,
    author text NOT NULL,
    rank   bigint,
    since  date,
    PRIMARY KEY ("user", author)
);
CREATE INDEX ON public."Shelf" ("Owner", position DESC, "Code" DESC);
CREATE INDEX ON library.book (shelf, added_at DESC, id DESC);
CREATE INDEX ON library.follow ("user", rank DESC);
