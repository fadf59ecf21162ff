"""The thread that syncs: what it is handed, when it works, and what it brings to the kernel."""
