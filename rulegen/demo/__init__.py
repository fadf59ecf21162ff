"""A playground: network namespaces of its own, a sample cluster, real connections. Never touches the host's network."""
