"""Routing policies compared offline on recorded answers."""
