"""Messages to the kernel's netfilter subsystems, as bytes; what nf_tables and conntrack make of them is theirs."""
