"""What goes in and out of the HTTP API, a module for each router."""
