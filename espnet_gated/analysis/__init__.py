"""Scores, measured cost, gate statistics and reports of decoded systems."""
