"""Flows through the real kernel, against what the Service specification says about them.

`world` describes a node and its Services in a few words, `oracle` says what must become of a packet there by reading
docs/service-proxy.md literally, and `node` puts rulegen's rules for the same world into a lab. The oracle shares no
code with rulegen's services.
"""
