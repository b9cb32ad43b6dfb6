"""What can go wrong, by what the caller can do about it."""


class AtlasError(Exception):
    """Base of every error this project raises; its message is a sentence that says what to do."""


class ConfigError(AtlasError):
    """A setting is missing or wrong."""


class UnavailableError(AtlasError):
    """Postgres cannot be reached or is not ready. Trying again helps."""


class UnfitError(AtlasError):
    """This database cannot serve as it is. Trying again does not help."""
