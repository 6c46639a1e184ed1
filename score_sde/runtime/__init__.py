"""How programs run: devices and hosts, memory, signals, the lock and files of a run."""
