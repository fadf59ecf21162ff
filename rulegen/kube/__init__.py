"""Bytes in, typed Kubernetes objects out: from manifests (`manifests`) or the API server.

Decides nothing about packets; imports nothing of rulegen but `errors`.
"""
