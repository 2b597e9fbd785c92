"""The commands of `tgi bench`, a small file each. Importing them loads neither numpy nor an HTTP client."""
