"""What requests and responses look like on the wire, one file for each family of routes.

In requests null means absent, unknown fields are ignored and ranges are checked later (`limits.py`), where
the messages are TGI's. In responses a field that is `UNSET` does not appear at all; a number that is not
finite is written as null. `openapi.py` reads the same structs.
"""
