"""What exists: frozen types for identities, settings, images, tables and models; no bytes."""
