"""Network policies as a feature: NetworkPolicies and ClusterNetworkPolicies, pods, namespaces, nodes in; rules out.

Objects go into the `store`, which tells facts: who a selector selects, what the rules of a policy are, by which
policies a pod of this node is isolated. `on_nftables` and `on_iptables` compile facts, `simulate` follows a packet
through them. `feature` is what the rest of rulegen sees.
"""
