backend more { .host = "10.0.0.2"; .probe = remote; }
