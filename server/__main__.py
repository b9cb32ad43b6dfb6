"""`python -m server` is `atlas-sync`."""

from server.cli import main

if __name__ == "__main__":
    main()
