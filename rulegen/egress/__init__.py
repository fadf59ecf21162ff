"""Egress masquerading as a feature: what pods of this node send outside leaves with the node's address.

Nodes, ServiceCIDRs and ip-masq-agent's configuration file come in; ranges of addresses go out, to `on_nftables` and
`on_iptables`, which compile them. `feature` is what the rest of rulegen sees. Decides about no packet that is not from
this node's pods.
"""
