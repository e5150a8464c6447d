"""Directed graphs: who is connected to whom."""
