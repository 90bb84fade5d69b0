"""What HTTP servers share: errors in one shape, CORS, names of conversations, sockets, arguments."""
