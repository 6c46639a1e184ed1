"""The needs of running programs: devices, hosts, memory, signals, a lock, files."""
