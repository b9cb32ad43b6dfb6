"""The network's side of the server: HTTP, WebSockets, tokens, timers."""
