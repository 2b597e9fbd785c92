"""The server under test: started and stopped, and watched while it is measured."""
