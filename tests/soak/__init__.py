"""`make soak`: a real agent follows a test API server for minutes, while everything that can happen to it does.

`churn` changes the cluster, `trouble` is what servers, other programs and crashes do, `agenda` says when, and `soak`
runs them and compares the kernel with what the API server holds. Everything random comes from one seed.
"""
