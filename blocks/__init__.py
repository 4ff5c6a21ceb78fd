"""Outside resources, typed and configurable in the Prefect UI: bytes and names only."""
