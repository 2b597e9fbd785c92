"""The HTTP server: TGI's routes and OpenAI's over one `EngineClient`.

`app` lists the routes, `tgi`, `chat` and `completions` handle them, `generation` is the path they share from a checked
request to text, `schema` is what goes over the wire, and `run` puts the application on a port.
"""
