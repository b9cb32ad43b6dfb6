-- Made the tables of the chat schema, which server/declaration/chat/chat.sql makes now.
SELECT;
