"""The receiver: a small HTTP service that takes in notifications of arrived files, if the sender proves who it is."""
