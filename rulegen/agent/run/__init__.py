"""The agent as a process: put together, started anew, locked, ended."""
