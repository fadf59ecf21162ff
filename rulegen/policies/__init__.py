"""Network policies: NetworkPolicies and ClusterNetworkPolicies, pods, namespaces and nodes in, rules of a node out.

`documents.decode` takes the plain values of Kubernetes objects, `store.Store` keeps them and tells facts,
`on_nftables` and `on_iptables` compile facts. The shortest way through all of it:

    from rulegen.policies.whole import nftables_text
    nftables_text(documents, node_name="node-1", family=Family.IPV4, settings=Settings())

`documents` are plain dicts as in manifests (other kinds are ignored); the text is for `nft -f` and replaces the table
`ip rulegen-policies` (or `ip6 ...`) of that family.
"""
