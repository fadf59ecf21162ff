"""The CNI plugin portmap, which rulegen's host ports replace: whether it is still asked for, and what it has left."""
