"""Training archives: what they hold, where it comes from, how a day is made."""
