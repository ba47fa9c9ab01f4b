"""The synthetic world of paired coarse and fine fields; nothing else leans on it."""
