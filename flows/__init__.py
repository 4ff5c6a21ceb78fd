"""How stages are wired into flows, and the `shearline` command."""
