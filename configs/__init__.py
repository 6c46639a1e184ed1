"""One file per run; each has get_config(), sections of literals."""
