"""rulegen: Kubernetes Services and EndpointSlices, compiled to the packet filter's rules.

Data flows one way: `kube` decodes objects, `services` decides where packets go, `services.on_nftables` turns that into
entries, `reconcile` compares entries with the live ones, and the driver (`nftables`) applies the difference. The other
target and further features are built alike.
"""

__version__ = "0.1.0"
