"""Files of others: from a path to fields on their own grid, with units, times and bounds checked."""
