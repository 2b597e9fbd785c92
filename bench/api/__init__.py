"""The dialects of the servers: what to send them, and what their answers mean."""
