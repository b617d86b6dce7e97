"""Cached, batched decoding with a sparsity knob."""
