"""Names of Services as a feature: record sets as Kubernetes' DNS specification 1.1.0 wants them."""
