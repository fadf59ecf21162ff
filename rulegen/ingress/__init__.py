"""Ingress: objects come in, what nginx serves for each host goes out. Knows no file and starts no program."""
