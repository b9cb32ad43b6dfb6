-- A Python chat framework: steps as messages, times as text, names in camel case.
CREATE TABLE users (
    "id" uuid PRIMARY KEY, "identifier" text NOT NULL UNIQUE, "metadata" jsonb NOT NULL, "createdAt" text
);
CREATE TABLE threads (
    "id" uuid PRIMARY KEY, "createdAt" text, "name" text, "userId" uuid REFERENCES users ("id") ON DELETE CASCADE,
    "userIdentifier" text, "tags" text[], "metadata" jsonb
);
CREATE TABLE steps (
    "id" uuid PRIMARY KEY, "name" text NOT NULL, "type" text NOT NULL,
    "threadId" uuid NOT NULL REFERENCES threads ("id") ON DELETE CASCADE, "parentId" uuid, "streaming" boolean NOT NULL,
    "waitForAnswer" boolean, "isError" boolean, "metadata" jsonb, "tags" text[], "input" text, "output" text,
    "createdAt" text, "command" text, "start" text, "end" text, "generation" jsonb, "showInput" text, "language" text,
    "indent" int, "defaultOpen" boolean
);
CREATE TABLE elements (
    "id" uuid PRIMARY KEY, "threadId" uuid REFERENCES threads ("id") ON DELETE CASCADE, "type" text, "url" text,
    "chainlitKey" text, "name" text NOT NULL, "display" text, "objectKey" text, "size" text, "page" int,
    "forId" uuid, "mime" text, "props" jsonb
);
CREATE TABLE feedbacks (
    "id" uuid PRIMARY KEY, "forId" uuid NOT NULL, "threadId" uuid NOT NULL REFERENCES threads ("id") ON DELETE CASCADE,
    "value" int NOT NULL, "comment" text
);
