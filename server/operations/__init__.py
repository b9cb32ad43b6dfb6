"""What operators have done, decided from what was seen: how a database becomes ours, what it needs, where a message is.

Pure; `postgres` looks, and carries out.
"""
