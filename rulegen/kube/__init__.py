"""Bytes in, typed Kubernetes objects out: from manifests, or from an API server, once or as they change.

`manifests`, `snapshot` and `follow` are the three ways in. Decides nothing about packets; of rulegen it imports only
`errors`, `paths`, `alike` and `bundle`.
"""
