"""Transports: they carry the messages between workers."""
