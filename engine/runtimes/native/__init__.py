"""The native runtime: a compiled module that executes a model's tape on CPU threads, with the weights packed for it."""


def available() -> str | None:
    """None where this runtime can be used, else why not and what to do about it."""
    try:
        from engine.runtimes.native import _native  # noqa: F401  # is it there, and does it load
    except ImportError as error:
        return (
            f"the native runtime is not built ({error}); "
            "install a C++17 compiler (on Debian: apt install g++), then install tgi again"
        )
    return None
