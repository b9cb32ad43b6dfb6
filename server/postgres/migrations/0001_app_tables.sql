-- Made the tables of the chat schema, which sql/chat.sql makes now.
SELECT;
