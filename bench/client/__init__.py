"""The load client: worker processes that send requests on time and stamp every byte of the answers."""
