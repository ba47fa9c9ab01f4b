"""Figures, maps and pages of HTML, from numbers that others computed."""
