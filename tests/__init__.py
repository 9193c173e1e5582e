"""A package by name, so that no library which installs `tests` is taken for this one."""
