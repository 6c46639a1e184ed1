"""The wing that knows a config: a file for each thing that one does with it."""
