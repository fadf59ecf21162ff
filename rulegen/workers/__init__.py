"""Processes of rulegen's own for libraries that must not run in rulegen's process: both ends of the channel."""
