"""The parts of the fault suite: what is killed and restarted, what watches, and what is counted."""
