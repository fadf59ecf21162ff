"""What keeps a kernel equal to what is wanted, whatever the entries mean and whoever holds them."""
