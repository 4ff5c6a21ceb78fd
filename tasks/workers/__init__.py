"""Worker processes: who runs the bodies of stages, on this machine or on others."""
