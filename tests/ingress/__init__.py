"""Ingress, with a real nginx in namespaces that the tests make."""
