"""What `ldmdown train` is made of: batches, the loop that fits a stage, the folder of a run and its page."""
