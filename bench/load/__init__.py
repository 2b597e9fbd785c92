"""What load to put on a server: when requests are due, in what order, and which worker sends them."""
