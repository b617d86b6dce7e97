"""Gated twins of ESPnet's layers."""
