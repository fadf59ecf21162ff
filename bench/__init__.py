"""Measurements of rulegen, run by `make bench`; docs/performance.md says what they mean.

`clusters` makes the input, `child` runs one measurement in a process and a network namespace of its own, `report` lays
the results out. Nothing here is imported by rulegen.
"""
