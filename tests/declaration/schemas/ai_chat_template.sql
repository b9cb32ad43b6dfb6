-- An AI chat template: mixed-case names, parts as JSON, timestamps without time zone, keys of two columns.
CREATE TABLE "User" (
    "id" uuid PRIMARY KEY DEFAULT gen_random_uuid(), "email" varchar(64) NOT NULL, "password" varchar(64)
);
CREATE TABLE "Chat" (
    "id" uuid PRIMARY KEY DEFAULT gen_random_uuid(), "createdAt" timestamp NOT NULL, "title" text NOT NULL,
    "userId" uuid NOT NULL REFERENCES "User" ("id"), "visibility" varchar DEFAULT 'private' NOT NULL, "lastContext" jsonb
);
CREATE TABLE "Message_v2" (
    "id" uuid PRIMARY KEY DEFAULT gen_random_uuid(), "chatId" uuid NOT NULL REFERENCES "Chat" ("id"),
    "role" varchar NOT NULL, "parts" json NOT NULL, "attachments" json NOT NULL, "createdAt" timestamp NOT NULL
);
CREATE TABLE "Vote_v2" (
    "chatId" uuid NOT NULL REFERENCES "Chat" ("id"), "messageId" uuid NOT NULL REFERENCES "Message_v2" ("id"),
    "isUpvoted" boolean NOT NULL, PRIMARY KEY ("chatId", "messageId")
);
CREATE TABLE "Document" (
    "id" uuid DEFAULT gen_random_uuid() NOT NULL, "createdAt" timestamp NOT NULL, "title" text NOT NULL,
    "content" text, "kind" varchar DEFAULT 'text' NOT NULL, "userId" uuid NOT NULL REFERENCES "User" ("id"),
    PRIMARY KEY ("id", "createdAt")
);
CREATE TABLE "Suggestion" (
    "id" uuid PRIMARY KEY DEFAULT gen_random_uuid(), "documentId" uuid NOT NULL, "documentCreatedAt" timestamp NOT NULL,
    "originalText" text NOT NULL, "isResolved" boolean DEFAULT false NOT NULL,
    "userId" uuid NOT NULL REFERENCES "User" ("id"), "createdAt" timestamp NOT NULL,
    FOREIGN KEY ("documentId", "documentCreatedAt") REFERENCES "Document" ("id", "createdAt")
);
CREATE TABLE "Stream" (
    "id" uuid PRIMARY KEY DEFAULT gen_random_uuid(), "chatId" uuid NOT NULL REFERENCES "Chat" ("id"),
    "createdAt" timestamp NOT NULL
);
