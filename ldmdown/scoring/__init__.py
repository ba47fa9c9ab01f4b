"""Scores of fields against fields that count as true, and the systems that are compared by them."""
