"""Foundations: outcomes, errors, shapes and records; they know nothing of layers."""
