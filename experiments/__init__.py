"""Programs: parse a config, build what it describes, call the library."""
