"""Services on nftables: service-ports become elements of the sets and maps of rulegen's table."""
