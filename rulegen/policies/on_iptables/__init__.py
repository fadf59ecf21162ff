"""Network policies as chains of iptables: facts in, chains and, where the host has them, ipsets out."""
