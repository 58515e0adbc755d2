vcl 4.1;

backend v1 { .host = "10.0.0.1"; .proxy_header = 1; }
backend v2 {
    .host = "10.0.0.2";
    .proxy_header = 2;
    .preamble = :SGVsbG8gV29ybGQK:;
    .probe = { .url = "/p"; .expect_close = false; }
}
