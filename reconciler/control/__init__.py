"""The control API of a supervisor: HTTP/1.1 and JSON on a Unix socket.

Nothing is imported here: the cheap client would pay for it.
"""
