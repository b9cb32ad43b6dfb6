"""The file in which a person declares what is synced: read, with everything that is wrong in it, and written. Pure."""
