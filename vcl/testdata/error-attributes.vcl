vcl 4.0;

backend a {
    .hostname = "10.0.0.1";
    .port = 8080;
    .connect_timeout = 3;
    .first_byte_timeout = -1s;
    .between_bytes_timeout = 1 fortnight;
    .max_connections = many;
    .max_connections = 1.5;
    .proxy_header = 3;
    .preamble = "x";
    .probe = "health";
}
backend b {
    .host = "10.0.0.2" ;
    .host = "10.0.0.3";
    .port = "gopher";
    .preamble = :AAA:;
    .probe = { .window = 5; .url = "no path"; .request = "GET / HTTP/1.1"; .expect_close = 0; .frequency = 1s; }
}
backend c { .path = "/run/c.sock"; .host = "10.0.0.4" .port = "80"; }
backend d { }
backend e { .host = "not a host"; host = "x"; }
probe p { .threshold = 9; .window = 8; .timeout = 0s; .expected_response = 1000; .interval = 1s }
probe none { }
