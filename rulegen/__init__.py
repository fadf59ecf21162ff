"""rulegen: Kubernetes Services and EndpointSlices, compiled to the packet filter's rules.

Data flows one way: `kube` decodes objects, `services` decides where packets go, a target (`nftables`) turns that
into entries, `reconcile` compares entries with the live ones, and the target applies the difference.
"""

__version__ = "0.1.0"
