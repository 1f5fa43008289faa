"""The server's side of HTTP: routes, bodies within their limits, errors as Problems. Meaning lies in remote.server."""
