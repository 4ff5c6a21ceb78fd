"""Products to bytes in the store and back; the only place that knows FITS, 1-based pixels and keys."""
