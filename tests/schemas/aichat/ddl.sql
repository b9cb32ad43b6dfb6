-- An AI chat template on Postgres: quoted names, timestamps without a time zone, no cascades.

CREATE TABLE public."User" (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
    email character varying(64) NOT NULL,
    password character varying(64)
);
CREATE TABLE public."Chat" (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
    "createdAt" timestamp NOT NULL,
    title text NOT NULL,
    "userId" uuid NOT NULL,
    visibility character varying DEFAULT 'private' NOT NULL,
    "lastContext" jsonb,
    CONSTRAINT "Chat_userId_User_id_fk" FOREIGN KEY ("userId") REFERENCES public."User" (id)
        ON DELETE NO ACTION ON UPDATE NO ACTION
);
CREATE TABLE public."Message_v2" (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
    "chatId" uuid NOT NULL,
    role character varying NOT NULL,
    parts json NOT NULL,
    attachments json NOT NULL,
    "createdAt" timestamp NOT NULL,
    CONSTRAINT "Message_v2_chatId_Chat_id_fk" FOREIGN KEY ("chatId") REFERENCES public."Chat" (id)
);
CREATE TABLE public."Vote_v2" (
    "chatId" uuid NOT NULL,
    "messageId" uuid NOT NULL,
    "isUpvoted" boolean NOT NULL,
    CONSTRAINT "Vote_v2_chatId_messageId_pk" PRIMARY KEY ("chatId", "messageId"),
    CONSTRAINT "Vote_v2_chatId_Chat_id_fk" FOREIGN KEY ("chatId") REFERENCES public."Chat" (id),
    CONSTRAINT "Vote_v2_messageId_Message_v2_id_fk" FOREIGN KEY ("messageId") REFERENCES public."Message_v2" (id)
);
CREATE TABLE public."Document" (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    "createdAt" timestamp NOT NULL,
    title text NOT NULL,
    content text,
    "text" character varying DEFAULT 'text' NOT NULL,
    "userId" uuid NOT NULL,
    CONSTRAINT "Document_id_createdAt_pk" PRIMARY KEY (id, "createdAt"),
    CONSTRAINT "Document_userId_User_id_fk" FOREIGN KEY ("userId") REFERENCES public."User" (id)
);
CREATE TABLE public."Suggestion" (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    "documentId" uuid NOT NULL,
    "documentCreatedAt" timestamp NOT NULL,
    "originalText" text NOT NULL,
    "suggestedText" text NOT NULL,
    description text,
    "isResolved" boolean DEFAULT false NOT NULL,
    "userId" uuid NOT NULL,
    "createdAt" timestamp NOT NULL,
    CONSTRAINT "Suggestion_id_pk" PRIMARY KEY (id),
    CONSTRAINT "Suggestion_userId_User_id_fk" FOREIGN KEY ("userId") REFERENCES public."User" (id),
    CONSTRAINT "Suggestion_document_fk" FOREIGN KEY ("documentId", "documentCreatedAt")
        REFERENCES public."Document" (id, "createdAt")
);
CREATE TABLE public."Stream" (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    "chatId" uuid NOT NULL,
    "createdAt" timestamp NOT NULL,
    CONSTRAINT "Stream_id_pk" PRIMARY KEY (id),
    CONSTRAINT "Stream_chatId_Chat_id_fk" FOREIGN KEY ("chatId") REFERENCES public."Chat" (id)
);
