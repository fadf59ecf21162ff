"""Who is told of each event and each sync, and what follows: metrics, Events, conntrack, other programs' rules."""
