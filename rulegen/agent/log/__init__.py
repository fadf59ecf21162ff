"""What the agent writes for people."""
