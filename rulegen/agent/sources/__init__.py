"""Where objects come from when it is not the Kubernetes API."""
